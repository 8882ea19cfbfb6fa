// Package tunnel carries a TCP connection through one HTTP/2 CONNECT request. HTTP/2 in Go's standard library cannot half-close a
// response, so each direction is a sequence of chunks: a big-endian uint16 length and so many bytes; length 0 means that this direction
// has ended. A stream that ends without it was cut, and the TCP connection at the other end is reset.
package tunnel

import (
	"encoding/binary"
	"io"
	"sync/atomic"
)

const (
	headerLength = 2
	// maxPayload keeps a chunk with its header within one HTTP/2 frame of the default size.
	maxPayload = 16<<10 - headerLength
)

// chunkReader takes the payload out of the chunks of r.
type chunkReader struct {
	r     io.Reader
	left  int
	ended atomic.Bool
}

// Read returns io.EOF at the end chunk only; a stream that ends before is io.ErrUnexpectedEOF.
func (c *chunkReader) Read(data []byte) (int, error) {
	if len(data) == 0 {
		return 0, nil
	}
	if c.left == 0 {
		if err := c.nextChunk(); err != nil {
			return 0, err
		}
	}
	n, err := c.r.Read(data[:min(len(data), c.left)])
	c.left -= n
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if n > 0 {
		err = nil // it comes again with the next read
	}
	return n, err
}

func (c *chunkReader) nextChunk() error {
	if c.ended.Load() {
		return io.EOF
	}
	var header [headerLength]byte
	if _, err := io.ReadFull(c.r, header[:]); err != nil {
		return cut(err)
	}
	c.left = int(binary.BigEndian.Uint16(header[:]))
	if c.left == 0 {
		c.ended.Store(true)
		return io.EOF
	}
	return nil
}

func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// putHeader writes the header of a chunk whose payload lies behind it in frame.
func putHeader(frame []byte) {
	binary.BigEndian.PutUint16(frame, uint16(len(frame)-headerLength))
}
