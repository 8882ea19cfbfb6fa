package trap

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// question asks for the A records of a.bc, with an OPT record when size is not 0.
func question(size uint16) []byte {
	message := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 'a', 2, 'b', 'c', 0, 0, 1, 0, 1}
	if size == 0 {
		return message
	}
	message[11] = 1
	message = append(message, 0, 0, typeOPT)
	message = binary.BigEndian.AppendUint16(message, size)
	return append(message, 0, 0, 0, 0, 0, 0)
}

func TestFailed(t *testing.T) {
	want := []byte{0x12, 0x34, 0x81, 0x82, 0, 1, 0, 0, 0, 0, 0, 0, 1, 'a', 2, 'b', 'c', 0, 0, 1, 0, 1}
	if got := failed(question(4096)); !bytes.Equal(got, want) {
		t.Errorf("got % x", got)
	}
}

func TestFit(t *testing.T) {
	answer := func(length int) []byte {
		message := append(question(0), make([]byte, length-len(question(0)))...)
		message[2], message[3], message[7] = 0x81, 0x80, 30
		return message
	}
	for name, c := range map[string]struct {
		question []byte
		length   int
		cut      bool
	}{
		"short":              {question(0), 100, false},
		"just":               {question(0), 512, false},
		"one more":           {question(0), 513, true},
		"taken with EDNS":    {question(1232), 1232, false},
		"too long for EDNS":  {question(1232), 1233, true},
		"EDNS below minimum": {question(100), 512, false},
	} {
		got := fit(c.question, answer(c.length))
		truncated := got[2]&2 != 0
		if truncated != c.cut || !c.cut && len(got) != c.length || c.cut && !bytes.Equal(got[4:], question(0)[4:]) {
			t.Errorf("%s: % x", name, got)
		}
	}
}

// FuzzMessages: whatever an application sends, reading it neither panics nor makes an answer longer than a datagram may be.
func FuzzMessages(f *testing.F) {
	f.Add(question(0), question(1232))
	f.Add([]byte{0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63}, bytes.Repeat([]byte{255}, 600))
	f.Fuzz(func(t *testing.T, asked, answer []byte) {
		if len(asked) < dnsHeader {
			return // resolve has thrown it away
		}
		if got := failed(asked); got[2]&0x80 == 0 || len(got) > len(asked) {
			t.Fatalf("failed % x", got)
		}
		if got := fit(asked, answer); len(got) > max(largestDatagram(asked), len(asked)) {
			t.Fatalf("%d bytes", len(got))
		}
	})
}
