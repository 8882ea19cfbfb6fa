package local

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// hand is a clock that is moved by hand.
type hand struct{ now time.Time }

func (h *hand) pass(d time.Duration) { h.now = h.now.Add(d) }

func newDesk() (*Desk, *hand) {
	clock := &hand{time.Unix(1000, 0)}
	desk := New()
	desk.now = func() time.Time { return clock.now }
	desk.Thawed(true, &About{MicrovmID: "microvm-1", LeaseMaxS: 600})
	return desk, clock
}

const fine = "Host: 169.254.169.254\r\nX-Rekindle-Guest: 1\r\n"

// say sends raw bytes and returns the status and body; status 0 is a connection that was broken without an answer.
func say(t *testing.T, desk *Desk, raw string) (int, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := listener.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		desk.Serve(conn)
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	defer func() { <-served }()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, ""
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func put(body string) string {
	return "PUT /rekindle/v1/lease HTTP/1.1\r\n" + fine + "Content-Length: " + itoa(len(body)) + "\r\n\r\n" + body
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

func TestRefusals(t *testing.T) {
	desk, _ := newDesk()
	get := "GET /rekindle/v1/ HTTP/1.1\r\n"
	for raw, want := range map[string]int{
		get + fine + "\r\n":                                                      200,
		"GET /rekindle/v1 HTTP/1.1\r\n" + fine + "\r\n":                          200,
		get + "Host: 169.254.169.254\r\n\r\n":                                    403,
		get + fine + "X-Forwarded-For: 10.0.0.1\r\n\r\n":                         403,
		get + fine + "Origin: https://example.com\r\n\r\n":                       403,
		get + "Host: rebound.example\r\nX-Rekindle-Guest: 1\r\n\r\n":             403,
		"GET /rekindle/v2/ HTTP/1.1\r\n" + fine + "\r\n":                         404,
		"GET /rekindle/v1/../v1/ HTTP/1.1\r\n" + fine + "\r\n":                   404, // and no redirect
		"GET /rekindle/v1/lease HTTP/1.1\r\n" + fine + "\r\n":                    405,
		"GET /latest/meta-data/ HTTP/1.1\r\n" + fine + "\r\n":                    0,
		"GET / HTTP/1.0\r\n\r\n":                                                 0,
		"\x16\x03\x01\x00\x05hello\n":                                            0,
		put(`{"seconds": 0}`):                                                    400,
		put(`{"seconds": 601}`):                                                  400,
		put(`{"seconds": "9"}`):                                                  400,
		put(`{"seconds": 9, "forever": true}`):                                   400,
		put(`{}`):                                                                400,
		put(`{"seconds": 9, "name": "` + strings.Repeat("n", 65) + `"}`):         400,
		put(`{"seconds": 9, "name": "a\nb"}`):                                    400,
		put(`{"seconds": 9, "name": "` + strings.Repeat("n", maxBody) + `"}`):    400,
		put(`{"seconds": 600, "name": "train"}`):                                 200,
		"DELETE /rekindle/v1/lease HTTP/1.1\r\n" + fine + "\r\n":                 200,
		"POST /rekindle/v1/suspend HTTP/1.1\r\n" + fine + "\r\n":                 202,
		get + "A: " + strings.Repeat("a", 2*maxRequest) + "\r\n" + fine + "\r\n": 0,
	} {
		if status, body := say(t, desk, raw); status != want {
			t.Errorf("%.60q: %d %s, not %d", raw, status, body, want)
		}
	}
}

func TestBeforeTheFirstThawNobodyCanBeAsked(t *testing.T) {
	desk := New()
	for _, raw := range []string{put(`{"seconds": 9}`), "POST /rekindle/v1/suspend HTTP/1.1\r\n" + fine + "\r\n"} {
		if status, _ := say(t, desk, raw); status != 409 {
			t.Errorf("%.30q: %d", raw, status)
		}
	}
	if got := desk.Wishes(); got != (Wishes{}) {
		t.Errorf("%+v", got)
	}
}

func TestALeaseStandsStillInTheFrost(t *testing.T) {
	desk, clock := newDesk()
	desk.take(100, "work")
	clock.pass(40 * time.Second)
	desk.Hold()
	clock.pass(time.Hour)
	desk.Hold()
	desk.Thawed(false, &About{})
	desk.Release()
	if lease := desk.Wishes().Lease; lease == nil || lease.LeftMS != 60_000 || lease.Name != "work" {
		t.Fatalf("%+v", lease)
	}
	clock.pass(time.Minute)
	if lease := desk.Wishes().Lease; lease != nil {
		t.Errorf("%+v", lease)
	}
}

func TestACloneHasNoLeaseOfItsOriginal(t *testing.T) {
	desk, _ := newDesk()
	desk.take(100, "work")
	desk.askForSleep()
	desk.Hold()
	desk.Thawed(true, &About{})
	desk.Release()
	if got := desk.Wishes(); got != (Wishes{}) {
		t.Errorf("%+v", got)
	}
}

func TestNews(t *testing.T) {
	desk, _ := newDesk()
	told := func(heard int64) bool {
		select {
		case <-desk.After(heard):
			return true
		default:
			return false
		}
	}
	desk.take(100, "")
	desk.take(200, "")
	if told(0) {
		t.Error("a longer lease is news")
	}
	desk.take(50, "")
	if !told(0) || told(1) {
		t.Error("a shorter lease is no news")
	}
	desk.release()
	desk.release()
	desk.askForSleep()
	desk.askForSleep()
	if got := desk.Wishes(); got.News != 3 || !got.Suspend {
		t.Errorf("%+v", got)
	}
	desk.Following()
	if got := desk.Wishes(); got.Suspend {
		t.Error("a wish that is followed is asked again")
	}
}
