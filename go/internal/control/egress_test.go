package control

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"

	"rekindle/internal/dns"
	"rekindle/internal/tunnel"
)

// outside is a TCP server of the world: it echoes until the guest has ended its direction, then says bye.
func outside(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := io.Copy(conn, conn); err == nil {
					io.WriteString(conn, "bye")
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// allow declares addresses public, and names the resolvers.
func (r *relay) allow(addresses []string, resolvers ...string) {
	r.Helper()
	r.config["egress"] = map[string]any{"public_test_addresses": addresses, "resolvers": resolvers}
	r.ok("PUT", "/v1/config", r.config)
}

func TestGuestsReachPublicAddressesOnly(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", nil)
	allowed, forbidden := outside(t), outside(t)
	r.allow([]string{allowed, "127.0.0.1:1"})
	conn, err := m.guest.Dial(t, allowed)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "hello ")
	conn.CloseWrite()
	if all, err := io.ReadAll(conn); string(all) != "hello bye" {
		t.Errorf("%q, %v", all, err)
	}
	eventually(t, "bytes are counted", func() bool {
		return m.listed()["egress_bytes_out"] == 6.0 && m.listed()["egress_bytes_in"] == 9.0
	})
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	targets := []string{forbidden, "10.0.0.1:80", "169.254.169.254:80", "[::ffff:127.0.0.1]:80", "[::1]:80", "[fd00:ec2::254]:80", "localhost:80", "[fe80::1]:80"}
	for _, one := range own {
		targets = append(targets, net.JoinHostPort(netip.MustParsePrefix(one.String()).Addr().String(), "22"))
	}
	for _, target := range targets {
		var refused *tunnel.Refused
		if _, err := m.guest.Dial(t, target); !errors.As(err, &refused) || refused.Status != 403 || refused.Reason != tunnel.ReasonDenied {
			t.Errorf("%s: %v", target, err)
		}
	}
	var refused *tunnel.Refused
	if _, err := m.guest.Dial(t, "127.0.0.1:1"); !errors.As(err, &refused) || refused.Status != 502 || refused.Reason != tunnel.ReasonRefused {
		t.Errorf("nothing listens: %v", err)
	}
}

func TestConnectionsToOutsideAreBounded(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", nil)
	target := outside(t)
	r.allow([]string{target})
	var open sync.WaitGroup
	for range 512 {
		open.Go(func() {
			if conn, err := m.guest.Dial(t, target); err != nil {
				t.Error(err)
			} else {
				t.Cleanup(conn.Reset)
			}
		})
	}
	open.Wait()
	if conn, err := m.guest.Dial(t, target); err == nil {
		conn.Reset()
		t.Error("one more than the limit")
	}
}

func TestNoEgressIsNoConnection(t *testing.T) {
	m := startRelay(t).running("vm-1", map[string]any{"egress": "none", "out": ""})
	if n := m.guest.Connections(); n != 1 {
		t.Errorf("%d ports connected", n)
	}
}

func TestConnectionsOutsideEndWithTheChannel(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	r.allow([]string{listener.Addr().String()})
	if _, err := m.guest.Dial(t, listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m.disconnect()
	if _, err := io.ReadAll(conn); err == nil {
		t.Error("the world saw an orderly end of a connection that was cut")
	}
}

// nameServer answers every question with the given records, over UDP.
func nameServer(t *testing.T, records ...dns.Record) string {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	go func() {
		buffer := make([]byte, 2048)
		for {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			if query, err := dns.Parse(buffer[:n]); err == nil {
				answer := &dns.Message{ID: query.ID, Flags: dns.FlagResponse, Questions: query.Questions, Answers: records}
				socket.WriteTo(answer.Pack(dns.MaxMessage), from)
			}
		}
	}()
	return socket.LocalAddr().String()
}

func lookUp(t *testing.T, m *machine, kind uint16) *dns.Message {
	t.Helper()
	query := &dns.Message{ID: 77, Flags: dns.FlagRecurse, Questions: []dns.Question{{Name: dns.NewName("a.example"), Type: kind, Class: dns.ClassIN}}}
	status, body := m.guest.Resolve(t, query.Pack(dns.MaxMessage))
	answer, err := dns.Parse(body)
	if status != 200 || err != nil {
		t.Fatal(status, err)
	}
	if answer.ID != 77 || answer.Flags&dns.FlagResponse == 0 || !reflect.DeepEqual(answer.Questions, query.Questions) {
		t.Errorf("%+v", answer)
	}
	return answer
}

func address(text string) dns.Record {
	parsed := netip.MustParseAddr(text)
	kind := uint16(dns.TypeA)
	if parsed.Is6() {
		kind = dns.TypeAAAA
	}
	return dns.Record{Name: dns.NewName("b.example"), Type: kind, Class: dns.ClassIN, TTL: 60, Data: parsed.AsSlice()}
}

func TestNamesDoNotPointToForbiddenAddresses(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", nil)
	alias := dns.Record{Name: dns.NewName("a.example"), Type: dns.TypeCNAME, Class: dns.ClassIN, TTL: 60, Data: []byte(dns.NewName("b.example"))}
	hints := dns.Record{Name: dns.NewName("a.example"), Type: dns.TypeHTTPS, Class: dns.ClassIN, TTL: 60, Data: []byte{0, 1, 0}}
	server := nameServer(t, alias, address("10.0.0.1"), address("8.8.8.8"), address("127.0.0.1"), address("::1"), address("2600::1"), hints)
	r.allow([]string{"[::1]:9"}, server)
	if got := lookUp(t, m, dns.TypeA).Answers; !reflect.DeepEqual(got, []dns.Record{alias, address("8.8.8.8"), address("::1"), address("2600::1")}) {
		t.Errorf("%+v", got)
	}
	if got := lookUp(t, m, dns.TypeHTTPS).Answers; got != nil {
		t.Errorf("%+v", got)
	}
}

func TestQuestionsThatAreNotAnswered(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", nil)
	r.allow(nil, "127.0.0.1:1")
	question := []dns.Question{{Name: dns.NewName("a.example"), Type: dns.TypeA, Class: dns.ClassIN}}
	if code := lookUp(t, m, dns.TypeA).Code(); code != dns.CodeFailure {
		t.Errorf("no resolver: code %d", code)
	}
	for want, query := range map[int]*dns.Message{
		dns.CodeNotImpl: {Flags: 4 << 11, Questions: question},
		dns.CodeFormat:  {Questions: append(question, question...)},
		dns.CodeRefused: {Questions: []dns.Question{{Name: dns.NewName("version.bind"), Type: 16, Class: 3}}},
	} {
		status, body := m.guest.Resolve(t, query.Pack(dns.MaxMessage))
		if answer, err := dns.Parse(body); status != 200 || err != nil || answer.Code() != want {
			t.Errorf("want code %d: %d %+v %v", want, status, answer, err)
		}
	}
	for want, body := range map[int][]byte{400: []byte("nonsense"), 413: bytes.Repeat([]byte("x"), 5000)} {
		if status, _ := m.guest.Resolve(t, body); status != want {
			t.Errorf("%d, want %d", status, want)
		}
	}
}

func TestTheHostsResolversAreTheDefault(t *testing.T) {
	found, err := dns.HostResolvers("/etc/resolv.conf")
	if err != nil || len(found) == 0 || strings.HasPrefix(found[0].String(), "0.0.0.0") {
		t.Error(found, err)
	}
}
