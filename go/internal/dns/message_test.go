package dns

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// An answer as a resolver sends it: www.example.com CNAME example.com, example.com A 93.184.216.34, names compressed.
const compressed = "1234818000010002000000000377777707" + "6578616d706c6503636f6d0000010001" +
	"c00c00050001000000640002c010" + "c01000010001000000640004" + "5db8d822"

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParseCompressed(t *testing.T) {
	m, err := Parse(unhex(t, compressed))
	if err != nil {
		t.Fatal(err)
	}
	want := &Message{
		ID: 0x1234, Flags: 0x8180,
		Questions: []Question{{NewName("www.example.com"), TypeA, ClassIN}},
		Answers: []Record{
			{NewName("www.example.com"), TypeCNAME, ClassIN, 100, []byte(NewName("example.com"))},
			{NewName("example.com"), TypeA, ClassIN, 100, []byte{93, 184, 216, 34}},
		},
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("%+v", m)
	}
}

func TestPackAfterDroppingARecordStillReads(t *testing.T) {
	m, _ := Parse(unhex(t, compressed))
	m.Answers = m.Answers[1:]
	again, err := Parse(m.Pack(MaxMessage))
	if err != nil || !reflect.DeepEqual(m, again) {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestPackTruncates(t *testing.T) {
	m := &Message{Questions: []Question{{NewName("a.example"), TypeA, ClassIN}}}
	for i := range 100 {
		m.Answers = append(m.Answers, Record{NewName("a.example"), TypeA, ClassIN, 1, []byte{8, 8, 8, byte(i)}})
	}
	packed := m.Pack(512)
	short, err := Parse(packed)
	if err != nil || len(packed) > 512 || short.Flags&FlagTruncated == 0 || len(short.Answers) < 20 {
		t.Errorf("%d bytes, %d answers, %v", len(packed), len(short.Answers), err)
	}
}

func TestMalformed(t *testing.T) {
	head := "12348180000100000000" + "0000"
	cases := map[string]string{
		"empty":               "",
		"short header":        "1234",
		"no question":         head,
		"pointer to itself":   head + "c00c00010001",
		"pointer forward":     head + "c01000010001" + "00",
		"pointers in a ring":  "123481800002000000000000" + "c01200010001" + "c00c00010001",
		"label runs out":      head + "3f41",
		"unknown label type":  head + "4141" + "0000010001",
		"trailing bytes":      head + "0000010001" + "00",
		"too many records":    "12348180ffffffffffffffff",
		"record too long":     "123481800000000100000000" + "00" + "00010001" + "00000000" + "ffff" + "01",
		"names outgrow rdata": "123481800000000100000000" + "00" + "00050001" + "00000000" + "0001" + "0161" + "00",
		"name over 255 bytes": head + strings.Repeat("3f"+strings.Repeat("61", 63), 5) + "0000010001",
	}
	for name, text := range cases {
		if m, err := Parse(unhex(t, text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(unhex(f, compressed))
	f.Add(unhex(f, "12348180000100000000"+"0000"+"c00c00010001"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		packed := m.Pack(1 << 30)
		again, err := Parse(packed)
		if len(packed) > 1<<20 {
			return
		}
		if err != nil || !reflect.DeepEqual(m, again) && !bytes.Equal(again.Pack(1<<30), packed) {
			t.Errorf("%x\n%+v\n%+v, %v", data, m, again, err)
		}
	})
}
