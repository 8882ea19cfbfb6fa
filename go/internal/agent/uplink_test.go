package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"rekindle/internal/channel"
)

// testTimeout only bounds a test that hangs.
const testTimeout = 20 * time.Second

func newPair(t *testing.T) (net.Conn, *uplink) {
	t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(pair[0]), "host")
	host, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	port := channel.NewPort(os.NewFile(uintptr(pair[1]), "guest"))
	t.Cleanup(func() { host.Close(); port.Close() })
	uplink := newUplink(port)
	go uplink.run()
	return host, uplink
}

func clientWithin(t *testing.T, uplink *uplink, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	_, err := uplink.Client(ctx)
	return err
}

func TestUplinkWaitsForARelayAndIsHeldBack(t *testing.T) {
	host, uplink := newPair(t)
	if err := clientWithin(t, uplink, 20*time.Millisecond); !errors.Is(err, errNoUplink) {
		t.Fatalf("without a relay: %v", err)
	}
	if err := channel.Greet(t.Context(), host); err != nil {
		t.Fatal(err)
	}
	if err := clientWithin(t, uplink, testTimeout); err != nil {
		t.Fatal(err)
	}
	uplink.hold()
	uplink.drop()
	if err := channel.Greet(t.Context(), host); err != nil {
		t.Fatalf("after the drop: %v", err)
	}
	if err := clientWithin(t, uplink, 20*time.Millisecond); !errors.Is(err, errNoUplink) {
		t.Fatalf("while it is held: %v", err)
	}
	uplink.release()
	go channel.Serve(host, http.NotFoundHandler())
	if err := clientWithin(t, uplink, testTimeout); err != nil {
		t.Fatal(err)
	}
}
