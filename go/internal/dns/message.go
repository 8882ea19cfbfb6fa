// Package dns reads and writes DNS messages (RFC 1035) and asks resolvers. The codec is sans-IO and strict: any bytes become a message or
// an error. Messages are taken apart and put together anew, so nothing passes that was not understood.
package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	TypeA     = 1
	TypeCNAME = 5
	TypeAAAA  = 28
	TypeOPT   = 41
	TypeSVCB  = 64
	TypeHTTPS = 65
	ClassIN   = 1

	FlagResponse  = 1 << 15
	FlagTruncated = 1 << 9
	FlagRecurse   = 1 << 8
	FlagCanRec    = 1 << 7
	FlagNoCheck   = 1 << 4
	MaskOpcode    = 0xf << 11

	CodeFormat  = 1
	CodeFailure = 2
	CodeNotImpl = 4
	CodeRefused = 5

	headerBytes = 12
	// MaxMessage is what the length prefix of DNS over TCP can say.
	MaxMessage = 65535
	maxRecords = 1024
)

// ErrMalformed says that bytes are no DNS message.
var ErrMalformed = errors.New("malformed DNS message")

// Question is what is asked.
type Question struct {
	Name        Name
	Type, Class uint16
}

// Record is a resource record; names in its data are uncompressed.
type Record struct {
	Name        Name
	Type, Class uint16
	TTL         uint32
	Data        []byte
}

// Message is a whole DNS message.
type Message struct {
	ID, Flags uint16
	Questions []Question
	Answers   []Record
	Authority []Record
	Extra     []Record
}

// Code is the response code, without EDNS's upper bits.
func (m *Message) Code() int { return int(m.Flags & 0xf) }

// HasEDNS tells whether the message carries an OPT record.
func (m *Message) HasEDNS() bool {
	for _, record := range m.Extra {
		if record.Type == TypeOPT {
			return true
		}
	}
	return false
}

// named says where names stand in the data of types that may be compressed: so many bytes, so many names, then the rest.
// The rest of all types is opaque by RFC 3597 §4.
var named = map[uint16]struct{ before, names int }{
	2: {0, 1}, 3: {0, 1}, 4: {0, 1}, 5: {0, 1}, 6: {0, 2}, 7: {0, 1}, 8: {0, 1}, 9: {0, 1}, 12: {0, 1}, 14: {0, 2},
	15: {2, 1}, 17: {0, 2}, 18: {2, 1}, 21: {2, 1}, 33: {6, 1}, 36: {2, 1}, 39: {0, 1},
}

// Parse reads a message. Bytes after its end are an error, as is everything that does not add up.
func Parse(data []byte) (*Message, error) {
	r := &reader{data: data}
	m := &Message{ID: r.uint16(), Flags: r.uint16()}
	counts := [4]int{int(r.uint16()), int(r.uint16()), int(r.uint16()), int(r.uint16())}
	if counts[0]+counts[1]+counts[2]+counts[3] > maxRecords {
		r.fail("too many records")
	}
	for range counts[0] {
		m.Questions = append(m.Questions, Question{r.name(), r.uint16(), r.uint16()})
		if r.err != nil {
			return nil, r.err
		}
	}
	m.Answers, m.Authority, m.Extra = r.records(counts[1]), r.records(counts[2]), r.records(counts[3])
	if r.err == nil && r.at != len(data) {
		r.fail("bytes after the message")
	}
	if r.err != nil {
		return nil, r.err
	}
	return m, nil
}

type reader struct {
	data []byte
	at   int
	err  error
}

func (r *reader) fail(why string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s at byte %d", ErrMalformed, why, r.at)
	}
}

func (r *reader) peek(at int) (byte, bool) {
	if at >= len(r.data) {
		return 0, false
	}
	return r.data[at], true
}

func (r *reader) bytes(n int) []byte {
	if r.err != nil || r.at+n > len(r.data) {
		r.fail("message too short")
		return nil
	}
	r.at += n
	return r.data[r.at-n : r.at]
}

func (r *reader) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) records(count int) []Record {
	var list []Record
	for range count {
		record := Record{Name: r.name(), Type: r.uint16(), Class: r.uint16(), TTL: r.uint32()}
		record.Data = r.recordData(record.Type, int(r.uint16()))
		if r.err != nil {
			return nil
		}
		list = append(list, record)
	}
	return list
}

// recordData reads length bytes of a record's data and takes the compression out of its names.
func (r *reader) recordData(kind uint16, length int) []byte {
	end := r.at + length
	form, compressible := named[kind]
	if !compressible {
		return append([]byte{}, r.bytes(length)...)
	}
	data := append([]byte{}, r.bytes(form.before)...)
	for range form.names {
		data = append(data, r.name()...)
	}
	if r.at > end {
		r.fail("a record's names are longer than it")
		return nil
	}
	return append(data, r.bytes(end-r.at)...)
}
