package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rekindle/internal/channel"
)

// testTimeout only bounds a test that hangs.
const testTimeout = 20 * time.Second

// rig is a session over loopback TCP whose server splices every tunnel to a connection that the test holds the other end of.
type rig struct {
	client *channel.Client
	apps   chan *net.TCPConn
	ended  sync.WaitGroup // the handlers
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{apps: make(chan *net.TCPConn, 64)}
	near, far := tcpPair(t)
	served := make(chan error, 1)
	go func() { served <- channel.Serve(far, http.HandlerFunc(r.serve)) }()
	client, err := channel.NewClient(t.Context(), near)
	if err != nil {
		t.Fatal(err)
	}
	r.client = client
	t.Cleanup(func() {
		client.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
		r.ended.Wait()
	})
	return r
}

func (r *rig) serve(w http.ResponseWriter, request *http.Request) {
	r.ended.Add(1)
	defer r.ended.Done()
	if reason, found := strings.CutPrefix(request.Host, "refuse-"); found {
		Refuse(w, Reason(strings.TrimSuffix(reason, ":1")))
		return
	}
	near, far, err := dialPair()
	if err != nil {
		Refuse(w, ReasonUnreachable)
		return
	}
	near.SetWriteBuffer(4 << 10) // so that little is on its way to an app that does not read
	conn, err := Accept(w, request)
	if err != nil {
		Reset(near)
		return
	}
	r.apps <- far
	Splice(conn, near)
}

func tcpPair(t *testing.T) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	near, far, err := dialPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

func dialPair() (*net.TCPConn, *net.TCPConn, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	far, err := listener.Accept()
	if err != nil {
		return nil, nil, err
	}
	return near.(*net.TCPConn), far.(*net.TCPConn), nil
}

func (r *rig) open(t *testing.T) (*Conn, *net.TCPConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	conn, err := Dial(ctx, r.client, "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	app := <-r.apps
	t.Cleanup(func() { conn.Reset(); app.Close() })
	app.SetDeadline(time.Now().Add(testTimeout))
	return conn, app
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("after %q: %v", data, err)
	}
	return string(data)
}

func send(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

func TestAnswerAfterTheQuestionHasEnded(t *testing.T) {
	conn, app := newRig(t).open(t)
	send(t, conn, "question")
	conn.CloseWrite()
	if got := readAll(t, app); got != "question" {
		t.Fatalf("app got %q", got)
	}
	send(t, app, "answer")
	app.Close()
	if got := readAll(t, conn); got != "answer" {
		t.Fatalf("client got %q", got)
	}
}

// TestTheEndIsNoErrorWhenTheAppHangsUpAtOnce is a race: the stream can be over before CloseWrite is. Who took that for a failure closed the
// tunnel, and with it what the app had answered.
func TestTheEndIsNoErrorWhenTheAppHangsUpAtOnce(t *testing.T) {
	var everyone sync.WaitGroup
	defer everyone.Wait()
	for range 8 {
		rig := newRig(t) // one each: a rig hands out its apps in no order
		everyone.Go(func() {
			for range 250 {
				conn, app := rig.open(t)
				go func() {
					io.Copy(io.Discard, app)
					app.Close()
				}()
				if err := conn.CloseWrite(); err != nil {
					t.Error(err)
				}
				conn.Close()
			}
		})
	}
}

func TestAppEndsFirstAndStillListens(t *testing.T) {
	conn, app := newRig(t).open(t)
	send(t, app, "greeting")
	app.CloseWrite()
	if got := readAll(t, conn); got != "greeting" {
		t.Fatalf("client got %q", got)
	}
	send(t, conn, "late words")
	conn.CloseWrite()
	if got := readAll(t, app); got != "late words" {
		t.Fatalf("app got %q", got)
	}
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	conn, app := newRig(t).open(t)
	text := strings.Repeat("all of it ", 20_000)
	go func() {
		io.WriteString(conn, text)
		conn.Close()
	}()
	if got := readAll(t, app); got != text {
		t.Fatalf("app got %d of %d bytes", len(got), len(text))
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("a write after Close said %v", err)
	}
}

func TestCloseUnblocksARead(t *testing.T) {
	conn, _ := newRig(t).open(t)
	read := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		read <- err
	}()
	conn.Close()
	if err := <-read; err == nil || err == io.EOF {
		t.Fatalf("the read said %v", err)
	}
}

func TestAResetGoesThrough(t *testing.T) {
	rig := newRig(t)
	t.Run("from the app", func(t *testing.T) {
		conn, app := rig.open(t)
		Reset(app)
		if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Fatalf("the client saw %v", err)
		}
	})
	t.Run("from the client", func(t *testing.T) {
		conn, app := rig.open(t)
		conn.Reset()
		if _, err := app.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("the app saw %v", err)
		}
	})
	t.Run("after half the tunnel has ended", func(t *testing.T) {
		conn, app := rig.open(t)
		conn.CloseWrite()
		readAll(t, app)
		Reset(app)
		if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Fatalf("the client saw %v", err)
		}
	})
}

func TestALostSessionResetsTheApp(t *testing.T) {
	rig := newRig(t)
	_, app := rig.open(t)
	rig.client.Close()
	if _, err := app.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the app saw %v", err)
	}
}

func TestManyBytesBothWaysAtOnce(t *testing.T) {
	conn, app := newRig(t).open(t)
	up, down := make([]byte, 3<<20), make([]byte, 2<<20)
	rand.Read(up)
	rand.Read(down)
	var sending sync.WaitGroup
	sending.Go(func() { conn.Write(up); conn.CloseWrite() })
	sending.Go(func() { app.Write(down); app.CloseWrite() })
	received := make(chan []byte, 1)
	go func() {
		data, _ := io.ReadAll(app)
		received <- data
	}()
	if got := readAll(t, conn); got != string(down) {
		t.Errorf("down: %d of %d bytes, or other ones", len(got), len(down))
	}
	if got := <-received; !bytes.Equal(got, up) {
		t.Errorf("up: %d of %d bytes, or other ones", len(got), len(up))
	}
	sending.Wait()
}

// TestStalledTunnelsDoNotStopOthers needs a connection window far above net/http's documented limit; here is where it would show.
func TestStalledTunnelsDoNotStopOthers(t *testing.T) {
	rig := newRig(t)
	const stalled = 300
	rubbish := make([]byte, 1<<20)
	for range stalled {
		conn, app := rig.open(t)
		app.SetReadBuffer(4 << 10)
		go conn.Write(rubbish) // more than every buffer on the way holds; ends when the test resets it
	}
	conn, app := rig.open(t)
	send(t, conn, "through")
	conn.CloseWrite()
	if got := readAll(t, app); got != "through" {
		t.Fatalf("got %q", got)
	}
}

func TestRefusals(t *testing.T) {
	rig := newRig(t)
	for reason, status := range statusOf {
		_, err := Dial(t.Context(), rig.client, "refuse-"+string(reason)+":1")
		var refused *Refused
		if !errors.As(err, &refused) || refused.Reason != reason || refused.Status != status {
			t.Errorf("%s: %v", reason, err)
		}
	}
}

func TestDialGivesUp(t *testing.T) {
	near, far := tcpPair(t)
	go io.Copy(io.Discard, far)
	client, err := channel.NewClient(t.Context(), near)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, client, "127.0.0.1:80"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestATunnelOutlivesTheContextOfItsDial(t *testing.T) {
	rig := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := Dial(ctx, rig.client, "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	app := <-rig.apps
	defer app.Close()
	cancel()
	send(t, conn, "alive")
	if _, err := io.ReadFull(app, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
}

func TestDeadlines(t *testing.T) {
	rig := newRig(t)
	t.Run("one that passes cuts", func(t *testing.T) {
		conn, app := rig.open(t)
		conn.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("the read said %v", err)
		}
		if _, err := app.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("the app saw %v", err)
		}
	})
	t.Run("one that was taken back does not", func(t *testing.T) {
		conn, app := rig.open(t)
		conn.SetDeadline(time.Now().Add(time.Hour))
		conn.SetDeadline(time.Time{})
		send(t, app, "fine")
		app.Close()
		if got := readAll(t, conn); got != "fine" {
			t.Fatalf("got %q", got)
		}
	})
}
