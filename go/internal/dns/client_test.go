package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

// resolver is a name server on one loopback port, UDP and TCP; answer makes of a query what is sent back, nothing for nil.
func resolver(t *testing.T, answer func(network string, query *Message) [][]byte) netip.AddrPort {
	t.Helper()
	stream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packet, err := net.ListenPacket("udp", stream.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Close(); packet.Close() })
	go servePackets(packet, answer)
	go serveStreams(stream, answer)
	return netip.MustParseAddrPort(stream.Addr().String())
}

func servePackets(packet net.PacketConn, answer func(string, *Message) [][]byte) {
	buffer := make([]byte, 2048)
	for {
		n, from, err := packet.ReadFrom(buffer)
		if err != nil {
			return
		}
		if query, err := Parse(buffer[:n]); err == nil {
			for _, data := range answer("udp", query) {
				packet.WriteTo(data, from)
			}
		}
	}
}

func serveStreams(stream net.Listener, answer func(string, *Message) [][]byte) {
	for {
		conn, err := stream.Accept()
		if err != nil {
			return
		}
		var length [2]byte
		io.ReadFull(conn, length[:])
		data := make([]byte, binary.BigEndian.Uint16(length[:]))
		io.ReadFull(conn, data)
		if query, err := Parse(data); err == nil {
			for _, data := range answer("tcp", query) {
				conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(data))), data...))
			}
		}
		conn.Close()
	}
}

func reply(query *Message, flags uint16, records ...Record) []byte {
	m := &Message{ID: query.ID, Flags: FlagResponse | flags, Questions: query.Questions, Answers: records}
	return m.Pack(MaxMessage)
}

var question = Question{NewName("a.example"), TypeA, ClassIN}

func record(last byte) Record {
	return Record{question.Name, TypeA, ClassIN, 60, []byte{8, 8, 8, last}}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestForgedPacketsAreIgnored(t *testing.T) {
	server := resolver(t, func(_ string, query *Message) [][]byte {
		other := *query
		other.ID++
		asked := *query
		asked.Questions = []Question{{NewName("b.example"), TypeA, ClassIN}}
		return [][]byte{{1, 2, 3}, reply(&other, 0, record(1)), reply(&asked, 0, record(2)), reply(query, 0, record(3))}
	})
	m, err := Ask(within(t, 5*time.Second), []netip.AddrPort{server}, question, 0)
	if err != nil || !reflect.DeepEqual(m.Answers, []Record{record(3)}) {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestTruncatedAnswersComeOverTCP(t *testing.T) {
	server := resolver(t, func(network string, query *Message) [][]byte {
		if network == "udp" {
			return [][]byte{reply(query, FlagTruncated)}
		}
		return [][]byte{reply(query, 0, record(4))}
	})
	m, err := Ask(within(t, 5*time.Second), []netip.AddrPort{server}, question, 0)
	if err != nil || !reflect.DeepEqual(m.Answers, []Record{record(4)}) {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestTheNextResolverIsAsked(t *testing.T) {
	failing := resolver(t, func(_ string, query *Message) [][]byte { return [][]byte{reply(query, CodeFailure)} })
	good := resolver(t, func(_ string, query *Message) [][]byte { return [][]byte{reply(query, 0, record(5))} })
	dead := netip.MustParseAddrPort("127.0.0.1:1")
	m, err := Ask(within(t, 5*time.Second), []netip.AddrPort{dead, failing, good}, question, 0)
	if err != nil || len(m.Answers) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err = Ask(within(t, 5*time.Second), []netip.AddrPort{failing}, question, 0); err != nil || m.Code() != CodeFailure {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestSilentResolversEndWithTheContext(t *testing.T) {
	silent := resolver(t, func(string, *Message) [][]byte { return nil })
	start := time.Now()
	_, err := Ask(within(t, 100*time.Millisecond), []netip.AddrPort{silent}, question, 0)
	if !errors.Is(err, ErrNoAnswer) || time.Since(start) > time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

func TestHostResolvers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) []netip.AddrPort {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := HostResolvers(path)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	got := write("# x\nsearch a b\nnameserver 10.0.0.2\nnameserver bad\nnameserver fe80::1%eth0\noptions rotate\n")
	want := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:53"), netip.MustParseAddrPort("[fe80::1%eth0]:53")}
	if !reflect.DeepEqual(got, want) {
		t.Error(got)
	}
	if got = write(""); len(got) != 1 || got[0].String() != "127.0.0.1:53" {
		t.Error(got)
	}
}
