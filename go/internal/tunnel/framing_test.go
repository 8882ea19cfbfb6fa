package tunnel

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestChunkReader(t *testing.T) {
	for name, c := range map[string]struct {
		wire, want string
		err        error
	}{
		"one chunk and the end":   {"\x00\x03abc\x00\x00", "abc", nil},
		"two chunks":              {"\x00\x01a\x00\x02bc\x00\x00", "abc", nil},
		"the end alone":           {"\x00\x00", "", nil},
		"more than a byte counts": {"\x01\x02" + strings.Repeat("x", 258) + "\x00\x00", strings.Repeat("x", 258), nil},
		"nothing":                 {"", "", io.ErrUnexpectedEOF},
		"no end":                  {"\x00\x03abc", "abc", io.ErrUnexpectedEOF},
		"cut in a header":         {"\x00\x03abc\x00", "abc", io.ErrUnexpectedEOF},
		"cut in a payload":        {"\x00\x03ab", "ab", io.ErrUnexpectedEOF},
		"bytes after the end":     {"\x00\x00\x00\x01x", "", nil},
	} {
		for way, wrap := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "error with data": iotest.DataErrReader,
		} {
			t.Run(name+", "+way, func(t *testing.T) {
				reader := &chunkReader{r: wrap(strings.NewReader(c.wire))}
				got, err := io.ReadAll(reader)
				if string(got) != c.want || !errors.Is(err, c.err) {
					t.Fatalf("got %q, %v", got, err)
				}
				if _, again := reader.Read(make([]byte, 1)); c.err == nil && again != io.EOF {
					t.Fatalf("after the end: %v", again)
				}
			})
		}
	}
}

// FuzzChunkReader: any bytes give a payload and then io.EOF or io.ErrUnexpectedEOF, and never more payload than bytes.
func FuzzChunkReader(f *testing.F) {
	f.Add([]byte("\x00\x03abc\x00\x00"))
	f.Add([]byte("\xff\xffabc"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		whole, wholeErr := io.ReadAll(&chunkReader{r: bytes.NewReader(wire)})
		slow, slowErr := io.ReadAll(&chunkReader{r: iotest.OneByteReader(bytes.NewReader(wire))})
		if !bytes.Equal(whole, slow) || wholeErr != slowErr || len(whole) > len(wire) {
			t.Fatalf("whole %q, %v; byte by byte %q, %v", whole, wholeErr, slow, slowErr)
		}
		if wholeErr != nil && wholeErr != io.ErrUnexpectedEOF {
			t.Fatal(wholeErr)
		}
	})
}
