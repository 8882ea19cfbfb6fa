// Package netlink writes the few netlink messages that the agent needs, byte by byte, and checks their acknowledgements.
package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Message flags.
const (
	Request = syscall.NLM_F_REQUEST
	Ack     = syscall.NLM_F_ACK
	Create  = syscall.NLM_F_CREATE
	Excl    = syscall.NLM_F_EXCL
	Append  = syscall.NLM_F_APPEND
)

const headerLength = syscall.NLMSG_HDRLEN

// Message is one request: its type, flags, fixed part and attributes.
type Message struct {
	Type  uint16
	Flags uint16
	Body  []byte
}

// Attr encodes an attribute: its length, kind, value and padding.
func Attr(kind uint16, value ...byte) []byte {
	length := 4 + len(value)
	out := make([]byte, align(length))
	binary.NativeEndian.PutUint16(out, uint16(length))
	binary.NativeEndian.PutUint16(out[2:], kind)
	copy(out[4:], value)
	return out
}

const nestedFlag = 0x8000 // NLA_F_NESTED

// Nest encodes an attribute that holds other attributes.
func Nest(kind uint16, parts ...[]byte) []byte { return Attr(kind|nestedFlag, Join(parts...)...) }

// String is an attribute that holds a zero-terminated string.
func String(kind uint16, text string) []byte { return Attr(kind, append([]byte(text), 0)...) }

// BE32 is an attribute that holds a big-endian number.
func BE32(kind uint16, n uint32) []byte {
	return Attr(kind, binary.BigEndian.AppendUint32(nil, n)...)
}

// Host32 is an attribute that holds a number in this machine's byte order.
func Host32(kind uint16, n uint32) []byte {
	return Attr(kind, binary.NativeEndian.AppendUint32(nil, n)...)
}

// Join puts parts of a message together.
func Join(parts ...[]byte) []byte {
	var out []byte
	for _, part := range parts {
		out = append(out, part...)
	}
	return out
}

func align(n int) int { return (n + 3) &^ 3 }

func encode(sequence uint32, message Message) []byte {
	out := make([]byte, headerLength, headerLength+len(message.Body))
	binary.NativeEndian.PutUint32(out, uint32(headerLength+len(message.Body)))
	binary.NativeEndian.PutUint16(out[4:], message.Type)
	binary.NativeEndian.PutUint16(out[6:], message.Flags|Request)
	binary.NativeEndian.PutUint32(out[8:], sequence)
	return append(out, message.Body...)
}

// Do sends messages of a protocol in one datagram and waits for the acknowledgement of each that asks for one. It fails with the first
// error that the kernel reports.
func Do(protocol int, messages ...Message) error {
	socket, err := open(protocol)
	if err != nil {
		return err
	}
	defer syscall.Close(socket)
	var datagram []byte
	waiting := 0
	for i, message := range messages {
		datagram = append(datagram, encode(uint32(i+1), message)...)
		if message.Flags&Ack != 0 {
			waiting++
		}
	}
	if err := syscall.Sendto(socket, datagram, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return os.NewSyscallError("netlink sendto", err)
	}
	return collect(socket, waiting)
}

func open(protocol int) (int, error) {
	socket, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, protocol)
	if err != nil {
		return 0, os.NewSyscallError("netlink socket", err)
	}
	limit := syscall.Timeval{Sec: 5} // the kernel answers at once or has lost an answer
	if err := syscall.SetsockoptTimeval(socket, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit); err != nil {
		syscall.Close(socket)
		return 0, os.NewSyscallError("netlink setsockopt", err)
	}
	return socket, nil
}

func collect(socket, waiting int) error {
	buffer := make([]byte, 16<<10)
	for waiting > 0 {
		n, _, err := syscall.Recvfrom(socket, buffer, 0)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("netlink recvfrom", err)
		}
		answers, err := syscall.ParseNetlinkMessage(buffer[:n])
		if err != nil {
			return fmt.Errorf("netlink answer: %w", err)
		}
		for _, answer := range answers {
			if err := failure(answer); err != nil {
				return err
			}
			waiting--
		}
	}
	return nil
}

func failure(answer syscall.NetlinkMessage) error {
	if answer.Header.Type != syscall.NLMSG_ERROR || len(answer.Data) < 4 {
		return errors.New("netlink answer is no acknowledgement")
	}
	code := int32(binary.NativeEndian.Uint32(answer.Data))
	if code == 0 {
		return nil
	}
	return fmt.Errorf("netlink message %d: %w", answer.Header.Seq, syscall.Errno(-code))
}
