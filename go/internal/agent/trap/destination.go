package trap

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"rekindle/internal/tunnel"
)

// originalDestination tells where a redirected connection was meant to go.
func originalDestination(conn *net.TCPConn) (netip.AddrPort, error) {
	level, decode := syscall.SOL_IP, decode4
	if conn.LocalAddr().(*net.TCPAddr).IP.To4() == nil {
		level, decode = syscall.SOL_IPV6, decode6
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var address [syscall.SizeofSockaddrInet6]byte
	var failed error
	err = raw.Control(func(fd uintptr) { failed = getOriginal(fd, level, address[:]) })
	if err == nil {
		err = failed
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("ask for the original destination: %w", err)
	}
	return decode(address), nil
}

func getOriginal(fd uintptr, level int, address []byte) error {
	const soOriginalDst = 80
	length := uint32(len(address))
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, uintptr(level), soOriginalDst,
		uintptr(unsafe.Pointer(&address[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	return nil
}

func decode4(a [syscall.SizeofSockaddrInet6]byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[4:8])), binary.BigEndian.Uint16(a[2:]))
}

func decode6(a [syscall.SizeofSockaddrInet6]byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(a[8:24])), binary.BigEndian.Uint16(a[2:]))
}

// isLocal tells whether an address is one of this guest's: a network made inside the guest reaches the guest itself by them, and
// such connections are trapped with the rest.
func isLocal(address netip.Addr) bool {
	if address.IsLoopback() {
		return true
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false // then the relay refuses it, as every private address
	}
	for _, prefix := range own {
		if ip, ok := netip.AddrFromSlice(prefix.(*net.IPNet).IP); ok && ip.Unmap() == address {
			return true
		}
	}
	return false
}

// joinLocal connects to a listener of this guest. The trap's own port is none: a connection to itself would never end.
func joinLocal(conn *net.TCPConn, target netip.AddrPort) {
	if target.Port() == tcpPort {
		tunnel.Reset(conn)
		return
	}
	local, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(target))
	if err != nil {
		tunnel.Reset(conn)
		return
	}
	var both sync.WaitGroup
	both.Go(func() { pass(local, conn) })
	pass(conn, local)
	both.Wait()
	local.Close()
	conn.Close()
}

// pass copies one direction and passes its end on.
func pass(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		tunnel.Reset(to)
		tunnel.Reset(from)
		return
	}
	to.CloseWrite() // fails only when the other direction was reset
}
