package wsframe

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// all reads everything as passOn does and returns what was written, and each control frame's payload.
func all(from io.Reader, masked bool) (passed string, controls []string, reader *Reader, err error) {
	var out bytes.Buffer
	to := bufio.NewWriter(&out)
	reader = NewReader(bufio.NewReader(from), masked)
	for {
		var f Frame
		if err = reader.Next(&f); err != nil {
			return out.String(), controls, reader, err
		}
		if f.Opcode.Control() {
			var raw, payload []byte
			if raw, payload, err = reader.Control(&f); err != nil {
				return out.String(), controls, reader, err
			}
			controls = append(controls, string(payload))
			out.Write(raw)
			continue
		}
		if err = reader.Pass(&f, to, func() {}); err != nil {
			to.Flush()
			return out.String(), controls, reader, err
		}
	}
}

const mask = "\x01\x02\x03\x04"

func TestFramesPassAsTheyCame(t *testing.T) {
	large := strings.Repeat("x", 70_000)
	server := "\x81\x02hi" + "\x02\x00" + "\x89\x01p" + "\x00\x7e\x01\x00" + strings.Repeat("y", 256) + "\x80\x00" +
		"\x82\x7f\x00\x00\x00\x00\x00\x01\x11\x70" + large + "\x88\x02\x03\xe8"
	client := "\x81\x82" + mask + "ab" + "\x8a\x81" + mask + "\x60" + "\x82\xfe\x00\x01" + mask + "z"
	for name, c := range map[string]struct {
		text     string
		masked   bool
		controls string
	}{"server": {server, false, "p|\x03\xe8"}, "client": {client, true, "a"}} {
		for kind, from := range map[string]io.Reader{
			"whole": strings.NewReader(c.text), "byte by byte": iotest.OneByteReader(strings.NewReader(c.text)), "with its end": iotest.DataErrReader(strings.NewReader(c.text)),
		} {
			passed, controls, reader, err := all(from, c.masked)
			if passed != c.text || strings.Join(controls, "|") != c.controls || err != io.EOF || !reader.Whole() {
				t.Errorf("%s, %s: %d bytes of %d, %q, %v", name, kind, len(passed), len(c.text), controls, err)
			}
		}
	}
}

func TestWhatIsNoWebSocketIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		text   string
		masked bool
	}{
		"a client's frame without a mask":       {"\x81\x01a", true},
		"a server's frame with a mask":          {"\x81\x81" + mask + "a", false},
		"a compressed message":                  {"\xc1\x01a", false},
		"an unknown data opcode":                {"\x83\x01a", false},
		"an unknown control opcode":             {"\x8b\x01a", false},
		"a ping in two frames":                  {"\x09\x01a", false},
		"a long ping":                           {"\x89\x7e\x00\x7e" + strings.Repeat("a", 126), false},
		"a ping that says it is huge":           {"\x89\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", false},
		"a continuation of nothing":             {"\x80\x01a", false},
		"a message within a message":            {"\x01\x01a\x81\x01b", false},
		"a length above 63 bits":                {"\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00", false},
		"a continuation after the message ends": {"\x01\x00\x80\x00\x80\x00", false},
	} {
		if _, _, _, err := all(strings.NewReader(c.text), c.masked); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhereAConnectionBreaksIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		text           string
		between, whole bool
		err            error
	}{
		"nothing":                {"", true, true, io.EOF},
		"after a message":        {"\x81\x01a", true, true, io.EOF},
		"after a ping":           {"\x81\x01a\x89\x00", true, true, io.EOF},
		"within a message":       {"\x01\x01a", true, false, io.EOF},
		"with a ping in it":      {"\x01\x01a\x89\x00", true, false, io.EOF},
		"within a head":          {"\x81\x01a\x81", false, true, io.ErrUnexpectedEOF},
		"within a length":        {"\x81\x7e\x01", false, false, io.ErrUnexpectedEOF},
		"within a payload":       {"\x81\x02a", false, false, io.ErrUnexpectedEOF},
		"within a huge payload":  {"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xffabc", false, false, io.ErrUnexpectedEOF},
		"within a ping's":        {"\x89\x02a", false, false, io.ErrUnexpectedEOF},
		"before a payload":       {"\x81\x02", false, false, io.ErrUnexpectedEOF},
		"before a ping's":        {"\x89\x02", false, false, io.ErrUnexpectedEOF},
		"before a long's length": {"\x81\x7f", false, false, io.ErrUnexpectedEOF},
	} {
		_, _, reader, err := all(strings.NewReader(c.text), false)
		if err != c.err || reader.Between() != c.between || reader.Between() && reader.Whole() != c.whole || !reader.Between() && reader.Whole() {
			t.Errorf("%s: %v, between %v, whole %v", name, err, reader.Between(), reader.Whole())
		}
	}
}

func TestAFailingTargetIsTold(t *testing.T) {
	reader := NewReader(bufio.NewReader(strings.NewReader("\x81\x01a")), false)
	broken, in := io.Pipe()
	broken.Close()
	var f Frame
	if err := reader.Next(&f); err != nil {
		t.Fatal(err)
	}
	var write *WriteError
	if err := reader.Pass(&f, bufio.NewWriter(in), func() {}); !errors.As(err, &write) || !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

func TestFramesOfOurOwn(t *testing.T) {
	if got := string(CloseFrame(ServiceRestart)); got != "\x88\x02\x03\xf4" {
		t.Errorf("%q", got)
	}
	if got := Control(Pong, bytes.Repeat([]byte{'a'}, 200)); len(got) != 2+maxControl || got[1] != maxControl {
		t.Errorf("%q", got)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add("\x81\x02hi\x89\x01p", false)
	f.Add("\x81\x82"+mask+"ab", true)
	f.Fuzz(func(t *testing.T, text string, masked bool) {
		passed, _, reader, err := all(iotest.HalfReader(strings.NewReader(text)), masked)
		if err == nil || !strings.HasPrefix(text, passed) || reader.Whole() && err == io.EOF && passed != text {
			t.Errorf("%q became %q, %v", text, passed, err)
		}
	})
}
