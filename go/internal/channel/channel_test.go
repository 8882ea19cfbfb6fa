package channel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// testTimeout only bounds a test that hangs.
const testTimeout = 20 * time.Second

// wire returns the host's end and the guest's port of one stream.
func wire(t *testing.T) (net.Conn, *Port) {
	t.Helper()
	hostFile, guestFile := socketPair(t)
	host, err := net.FileConn(hostFile)
	if err != nil {
		t.Fatal(err)
	}
	hostFile.Close()
	port := NewPort(guestFile)
	t.Cleanup(func() { host.Close(); port.Close() })
	return host, port
}

func socketPair(t *testing.T) (*os.File, *os.File) {
	t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(pair[0]), "host"), os.NewFile(uintptr(pair[1]), "guest")
}

func greet(t *testing.T, host net.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	if err := Greet(ctx, host); err != nil {
		t.Fatal(err)
	}
}

func TestAnswerSkipsWhateverComesBeforeTheFrame(t *testing.T) {
	const random = "abcdefghijkl"
	for name, rubbish := range map[string]string{
		"nothing":                         "",
		"one byte":                        "x",
		"the magic cut short":             "RKS",
		"the magic cut short, repeatedly": "RKRKSRRKS",
		"a long rest of a session":        strings.Repeat("some old bytes ", 999),
	} {
		t.Run(name, func(t *testing.T) {
			var echo bytes.Buffer
			in := strings.NewReader(rubbish + syncMagic + random + "PRI")
			err := Answer(struct {
				io.Reader
				io.Writer
			}{in, &echo})
			if err != nil || echo.String() != syncMagic+random {
				t.Fatalf("answered %q, %v", echo.String(), err)
			}
			if rest, _ := io.ReadAll(in); string(rest) != "PRI" {
				t.Fatalf("left %q", rest)
			}
		})
	}
}

func TestGreetTakesOnlyItsOwnFrame(t *testing.T) {
	host, guest := net.Pipe()
	defer host.Close()
	go func() {
		frame := make([]byte, syncLength)
		io.ReadFull(guest, frame)
		guest.Write([]byte("old data" + syncMagic + "of another!!"))
		guest.Write(append(frame, "next"...))
	}()
	greet(t, host)
	rest := make([]byte, 4)
	if _, err := io.ReadFull(host, rest); err != nil || string(rest) != "next" {
		t.Fatalf("read %q, %v", rest, err)
	}
}

func TestGreetGivesUpInTimeAndLeavesNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, guest := net.Pipe()
		defer host.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go io.CopyN(io.Discard, guest, syncLength)
		if err := Greet(ctx, host); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		go io.WriteString(guest, "x")
		if _, err := host.Read(make([]byte, 1)); err != nil {
			t.Fatalf("after the deadline: %v", err)
		}
		guest.Close()
	})
}

func TestGuestServesAndHostAsks(t *testing.T) {
	host, port := wire(t)
	server := NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}))
	go server.Serve(port)
	defer server.Close()
	greet(t, host)
	client, err := NewClient(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	if got := post(t, client, "hello"); got != "hello" {
		t.Fatalf("got %q", got)
	}
	client.Close()
	<-client.Done()
}

func TestHostServesAndGuestAsks(t *testing.T) {
	host, port := wire(t)
	served := make(chan error, 1)
	go func() {
		greet(t, host)
		served <- Serve(host, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	}()
	conn, err := port.Accept()
	if err != nil {
		t.Fatal(err)
	}
	client, err := NewClient(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	if got := post(t, client, "hello"); got != "hello" {
		t.Fatalf("got %q", got)
	}
	host.Close()
	<-client.Done()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
}

func post(t *testing.T, client *Client, body string) string {
	t.Helper()
	request, _ := http.NewRequestWithContext(t.Context(), "POST", "http://guest/echo", strings.NewReader(body))
	response, err := client.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

func TestAPortCarriesOneSessionAfterAnother(t *testing.T) {
	host, port := wire(t)
	for range 3 {
		accepted := make(chan net.Conn, 1)
		go func() {
			conn, err := port.Accept()
			if err != nil {
				t.Error(err)
			}
			accepted <- conn
		}()
		greet(t, host)
		session := <-accepted
		blocked := make(chan error, 1)
		go func() {
			_, err := session.Read(make([]byte, 1))
			blocked <- err
		}()
		session.Close()
		if err := <-blocked; !errors.Is(err, net.ErrClosed) {
			t.Fatalf("a read of a closed session said %v", err)
		}
		if _, err := session.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("a write of a closed session said %v", err)
		}
	}
}

func TestARestOfAnOldSessionIsNoNewSession(t *testing.T) {
	host, port := wire(t)
	go NewServer(http.NotFoundHandler()).Serve(port)
	greet(t, host)
	io.WriteString(host, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n and then nonsense instead of frames, for quite a while")
	// The server ends the broken session by itself; the first sync frames may fall into the old one.
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	for {
		attempt, stop := context.WithTimeout(ctx, 50*time.Millisecond)
		err := Greet(attempt, host)
		stop()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// TestCloseAfter shows the promise that a host relies on which freezes the guest: when it has the answer whole, the port is free.
func TestCloseAfter(t *testing.T) {
	hostFile, guestFile := socketPair(t)
	hostPort, port := NewPort(hostFile), NewPort(guestFile)
	defer hostPort.Close()
	defer port.Close()
	const body = `{"frozen":true,"id":"1b1c"}`
	sessions := make(chan *Session, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/freeze" {
			(<-sessions).CloseAfter([]byte(body))
		}
		io.WriteString(w, body)
	})
	listener := sessionListener{port, sessions}
	go NewServer(handler).Serve(listener)
	for range 5 {
		<-hostPort.free
		host := newSession(hostPort) // a host that keeps its socket open from one session to the next
		greet(t, host)
		client, err := NewClient(t.Context(), host)
		if err != nil {
			t.Fatal(err)
		}
		if got := get(t, client, "/other"); got != body {
			t.Fatalf("got %q", got)
		}
		if got := get(t, client, "/freeze"); got != body {
			t.Fatalf("got %q", got)
		}
		client.Close()
	}
}

func get(t *testing.T, client *Client, path string) string {
	t.Helper()
	request, _ := http.NewRequestWithContext(t.Context(), "GET", "http://guest"+path, nil)
	response, err := client.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

type sessionListener struct {
	*Port
	sessions chan *Session
}

func (l sessionListener) Accept() (net.Conn, error) {
	session, err := l.AcceptSession()
	if err != nil {
		return nil, err
	}
	l.sessions <- session
	return session, nil
}

func TestEndsStreamWith(t *testing.T) {
	body := []byte(`{"a":1}`)
	frame := append([]byte{0, 0, 7, 0, 1, 0, 0, 0, 5}, body...)
	for name, c := range map[string]struct {
		data []byte
		want bool
	}{
		"the frame":             {frame, true},
		"behind another frame":  {append([]byte{0, 0, 1, 1, 4, 0, 0, 0, 5, 0x88}, frame...), true},
		"cut short":             {frame[:len(frame)-1], false},
		"header only":           {frame[:6], false},
		"stream goes on":        {append([]byte{0, 0, 7, 0, 0, 0, 0, 0, 5}, body...), false},
		"the same length first": {append(append([]byte{0, 0, 7, 0, 1, 0, 0, 0, 3}, "1234567"...), frame...), true},
		"nothing":               {nil, false},
	} {
		if got := endsStreamWith(c.data, body); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
