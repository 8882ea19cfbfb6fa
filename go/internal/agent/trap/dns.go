package trap

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// Resolver is the address of the DNS server that the guest's resolv.conf names.
const Resolver = "127.0.0.2"

const (
	// maxQuestions is how many questions are under way at once; more are dropped, as a busy name server does.
	maxQuestions = 256
	maxMessage   = 64 << 10
	// answerTimeout is what resolvers wait by default.
	answerTimeout = 5 * time.Second
	// idleTimeout is for TCP connections that ask nothing.
	idleTimeout = 10 * time.Second
)

// listenDNS opens the datagram sockets: one for the resolver's address and two for questions that were redirected.
func (t *Trap) listenDNS() error {
	redirected := fmt.Sprintf(":%d", dnsPort)
	for _, socket := range []struct{ network, address string }{
		{"udp4", net.JoinHostPort(Resolver, "53")}, {"udp4", redirected}, {"udp6", redirected},
	} {
		conn, err := listenWithInfo(socket.network, socket.address)
		if err != nil {
			return err
		}
		go t.answerDatagrams(conn)
	}
	return nil
}

// listenWithInfo opens a socket that tells to which address a question was sent: the answer must come from there.
func listenWithInfo(network, address string) (*net.UDPConn, error) {
	level, option := syscall.SOL_IP, syscall.IP_PKTINFO
	if network == "udp6" {
		level, option = syscall.SOL_IPV6, syscall.IPV6_RECVPKTINFO
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = syscall.SetsockoptInt(int(fd), level, option, 1) })
		return errors.Join(err, os.NewSyscallError("setsockopt", failed))
	}}
	conn, err := config.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// answerDatagrams serves a socket until it is closed. Errors of single datagrams (an ICMP message that came back) do not end it.
func (t *Trap) answerDatagrams(conn *net.UDPConn) {
	question, info := make([]byte, maxMessage), make([]byte, 128)
	for {
		n, infoLength, _, from, err := conn.ReadMsgUDP(question, info)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			t.log("dns: %v", err)
			continue
		}
		select {
		case t.questions <- struct{}{}:
			go t.answerDatagram(conn, bytes.Clone(question[:n]), anyInterface(info[:infoLength]), from)
		default:
		}
	}
}

func (t *Trap) answerDatagram(conn *net.UDPConn, question, info []byte, to *net.UDPAddr) {
	defer func() { <-t.questions }()
	answer := fit(question, t.resolve(question))
	if answer == nil {
		return
	}
	if _, _, err := conn.WriteMsgUDP(answer, info, to); err != nil {
		t.log("dns: answer %v: %v", to, err)
	}
}

// anyInterface turns the packet information of a question into that of its answer: the same address, whatever the interface.
func anyInterface(info []byte) []byte {
	messages, err := syscall.ParseSocketControlMessage(info)
	if err != nil || len(messages) != 1 {
		return nil
	}
	data := messages[0].Data
	switch messages[0].Header.Level {
	case syscall.SOL_IP:
		clear(data[:4]) // struct in_pktinfo begins with the interface
	case syscall.SOL_IPV6:
		clear(data[16:20]) // struct in6_pktinfo ends with it
	}
	return bytes.Clone(info)
}

// serveDNS answers questions on a TCP connection, one after another.
func (t *Trap) serveDNS(conn *net.TCPConn) {
	defer conn.Close()
	for {
		conn.SetDeadline(time.Now().Add(idleTimeout)) // fails only on a closed connection
		question, err := readMessage(conn)
		if err != nil {
			return
		}
		answer := t.resolve(question)
		if answer == nil || len(answer) > 0xffff {
			return
		}
		framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer)))
		if _, err := conn.Write(append(framed, answer...)); err != nil {
			return
		}
	}
}

func readMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, message)
	return message, err
}

// resolve asks the relay. A question that it cannot answer gets SERVFAIL; what is no question gets nil.
func (t *Trap) resolve(question []byte) []byte {
	if len(question) < dnsHeader {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	answer, err := t.forward(ctx, question)
	if err != nil {
		t.log("dns: %v", err)
		return failed(question)
	}
	return answer
}

const dnsType = "application/dns-message"

func (t *Trap) forward(ctx context.Context, question []byte) ([]byte, error) {
	client, err := t.client(ctx)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://relay/v1/dns", bytes.NewReader(question))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", dnsType)
	response, err := client.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the relay answers %s", response.Status)
	}
	return io.ReadAll(io.LimitReader(response.Body, maxMessage))
}
