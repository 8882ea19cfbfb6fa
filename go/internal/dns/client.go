package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

const (
	tryTimeout = 2 * time.Second
	rounds     = 2
	// udpSize is what our questions offer; 1232 passes every network without fragments (DNS flag day 2020).
	udpSize = 1232
)

// ErrNoAnswer says that no resolver gave a usable answer in time.
var ErrNoAnswer = errors.New("no resolver answered")

// Ask sends one question to the resolvers in turn, twice round, over UDP, and over TCP when an answer is too long for that.
// Transaction ids and ports are our own and random. It ends when ctx does.
func Ask(ctx context.Context, resolvers []netip.AddrPort, question Question, flags uint16) (*Message, error) {
	var last *Message
	err := error(ErrNoAnswer)
	for range rounds {
		for _, resolver := range resolvers {
			answer, why := ask(ctx, resolver, question, flags)
			if why != nil {
				err = fmt.Errorf("%w: %w", ErrNoAnswer, why)
			} else if last = answer; !evasive(answer) {
				return answer, nil
			}
			if ctx.Err() != nil {
				return nil, fmt.Errorf("%w: %w", ErrNoAnswer, ctx.Err())
			}
		}
	}
	if last != nil {
		return last, nil
	}
	return nil, err
}

// evasive answers say more about the resolver than about the name: another one may know.
func evasive(answer *Message) bool {
	return answer.Code() == CodeFailure || answer.Code() == CodeRefused || answer.Code() == CodeNotImpl
}

func ask(ctx context.Context, resolver netip.AddrPort, question Question, flags uint16) (*Message, error) {
	answer, err := exchange(ctx, "udp", resolver, question, flags)
	if err == nil && answer.Flags&FlagTruncated != 0 {
		return exchange(ctx, "tcp", resolver, question, flags)
	}
	return answer, err
}

func exchange(ctx context.Context, network string, resolver netip.AddrPort, question Question, flags uint16) (*Message, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, resolver.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	query := newQuery(question, flags)
	if network == "tcp" {
		return overTCP(conn, query)
	}
	return overUDP(conn, query)
}

func newQuery(question Question, flags uint16) *Message {
	var id [2]byte
	rand.Read(id[:])
	return &Message{
		ID:        binary.BigEndian.Uint16(id[:]),
		Flags:     flags&FlagNoCheck | FlagRecurse,
		Questions: []Question{question},
		Extra:     []Record{{Name: "\x00", Type: TypeOPT, Class: udpSize}},
	}
}

// overUDP throws away what does not answer the query: anybody can send to our port.
func overUDP(conn net.Conn, query *Message) (*Message, error) {
	if _, err := conn.Write(query.Pack(MaxMessage)); err != nil {
		return nil, err
	}
	buffer := make([]byte, udpSize)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return nil, err
		}
		if answer, err := Parse(buffer[:n]); err == nil && answers(answer, query) {
			return answer, nil
		}
	}
}

func overTCP(conn net.Conn, query *Message) (*Message, error) {
	packed := query.Pack(MaxMessage)
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	data := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, data); err != nil {
		return nil, err
	}
	answer, err := Parse(data)
	if err == nil && !answers(answer, query) {
		err = errors.New("answer to another question")
	}
	return answer, err
}

func answers(answer, query *Message) bool {
	if answer.ID != query.ID || answer.Flags&FlagResponse == 0 || len(answer.Questions) != 1 {
		return false
	}
	got, want := answer.Questions[0], query.Questions[0]
	return got.Type == want.Type && got.Class == want.Class && got.Name.Equal(want.Name)
}
