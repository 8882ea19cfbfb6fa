// Package wsframe reads the heads of WebSocket frames (RFC 6455 §5) and passes frames on without looking into messages.
package wsframe

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// Opcode says what a frame is.
type Opcode byte

// The opcodes there are.
const (
	Continuation Opcode = 0
	Text         Opcode = 1
	Binary       Opcode = 2
	Close        Opcode = 8
	Ping         Opcode = 9
	Pong         Opcode = 10
)

// Control tells whether frames of this opcode stand between and within messages.
func (o Opcode) Control() bool { return o >= Close }

// Close codes that the relay sends by itself (RFC 6455 §7.4, and its registry).
const (
	ProtocolError  = 1002
	ServiceRestart = 1012
	TryAgainLater  = 1013
)

// ErrProtocol says that a peer does not speak WebSocket without extensions.
var ErrProtocol = errors.New("not a WebSocket frame")

const (
	maxControl = 125
	maxHead    = 14
)

// Reader reads one direction of a connection. It must not be used by two goroutines at once.
type Reader struct {
	from   *bufio.Reader
	masked bool // what comes from a client is masked, what comes from a server is not
	open   bool // a message has begun and not ended
	within bool // a frame's payload is not read to its end
}

// NewReader reads frames of a client (masked) or of a server.
func NewReader(from *bufio.Reader, masked bool) *Reader { return &Reader{from: from, masked: masked} }

// Between tells whether everything that was read ends with a whole frame.
func (r *Reader) Between() bool { return !r.within }

// Whole tells whether everything that was read ends with a whole message.
func (r *Reader) Whole() bool { return !r.open && !r.within }

// Frame is the head of a frame whose payload was not read yet.
type Frame struct {
	Opcode Opcode
	Length int64 // of the payload
	head   []byte
	mask   [4]byte
	bytes  [maxHead]byte
}

// Next reads a head. The payload of the frame before must have been read. It returns io.EOF only at the end of a frame.
func (r *Reader) Next(f *Frame) error {
	if _, err := r.from.Peek(1); err != nil {
		return err
	}
	r.within = true
	head := f.bytes[:2]
	if _, err := io.ReadFull(r.from, head); err != nil {
		return unexpected(err)
	}
	final, length := head[0]&0x80 != 0, int64(head[1]&0x7f)
	f.Opcode = Opcode(head[0] & 0x0f)
	if head[0]&0x70 != 0 || (head[1]&0x80 != 0) != r.masked || !r.allowed(f.Opcode, final, length) {
		return ErrProtocol
	}
	extended := 0
	switch length {
	case 126:
		extended = 2
	case 127:
		extended = 8
	}
	rest := extended
	if r.masked {
		rest += 4
	}
	f.head = f.bytes[:2+rest]
	if _, err := io.ReadFull(r.from, f.head[2:]); err != nil {
		return unexpected(err)
	}
	switch extended {
	case 2:
		length = int64(binary.BigEndian.Uint16(f.head[2:]))
	case 8:
		if length = int64(binary.BigEndian.Uint64(f.head[2:])); length < 0 {
			return ErrProtocol
		}
	}
	copy(f.mask[:], f.head[2+extended:])
	f.Length = length
	if !f.Opcode.Control() {
		r.open = !final
	}
	return nil
}

// allowed tells whether such a frame may come now.
func (r *Reader) allowed(opcode Opcode, final bool, length int64) bool {
	switch opcode {
	case Continuation:
		return r.open
	case Text, Binary:
		return !r.open
	case Close, Ping, Pong:
		return final && length <= maxControl
	}
	return false
}

// Control reads a control frame to its end: as it came, and its payload unmasked.
func (r *Reader) Control(f *Frame) (raw, payload []byte, err error) {
	raw = append(raw, f.head...)
	raw = append(raw, make([]byte, f.Length)...) // at most maxControl
	if _, err := io.ReadFull(r.from, raw[len(f.head):]); err != nil {
		return nil, nil, unexpected(err)
	}
	r.within = false
	payload = bytes.Clone(raw[len(f.head):])
	if r.masked {
		for i := range payload {
			payload[i] ^= f.mask[i%4]
		}
	}
	return raw, payload, nil
}

// Pass writes the frame as it came, its payload piece by piece; touch is called with each. to is flushed at the end, and whenever
// the payload does not come on at once. Its errors are of reading, but for a *WriteError.
func (r *Reader) Pass(f *Frame, to *bufio.Writer, touch func()) error {
	if _, err := to.Write(f.head); err != nil {
		return &WriteError{err}
	}
	for left := f.Length; left > 0; {
		if r.from.Buffered() == 0 {
			if err := to.Flush(); err != nil {
				return &WriteError{err}
			}
		}
		if _, err := r.from.Peek(1); err != nil {
			return unexpected(err)
		}
		piece, _ := r.from.Peek(int(min(left, int64(r.from.Buffered())))) // it is buffered
		touch()
		if _, err := to.Write(piece); err != nil {
			return &WriteError{err}
		}
		r.from.Discard(len(piece)) // it is buffered
		left -= int64(len(piece))
	}
	r.within = false
	if err := to.Flush(); err != nil {
		return &WriteError{err}
	}
	return nil
}

// WriteError is a failure of where a frame was going.
type WriteError struct{ Err error }

func (e *WriteError) Error() string { return e.Err.Error() }

// Unwrap returns the failure itself.
func (e *WriteError) Unwrap() error { return e.Err }

// Control makes an unmasked control frame. A payload that is too long is cut.
func Control(opcode Opcode, payload []byte) []byte {
	payload = payload[:min(len(payload), maxControl)]
	return append([]byte{0x80 | byte(opcode), byte(len(payload))}, payload...)
}

// CloseFrame makes an unmasked close frame with a code.
func CloseFrame(code uint16) []byte {
	return Control(Close, binary.BigEndian.AppendUint16(nil, code))
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
