package control

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rekindle/internal/event"
)

// socketApp is an app with a WebSocket at /chat: it greets each connection with its number, answers pings, and echoes messages.
type socketApp struct {
	port     int
	opened   atomic.Int64
	conns    chan net.Conn
	offered  chan string // Sec-WebSocket-Extensions of each handshake
	protocol string
	refuse   atomic.Bool
	before   func() // called with each handshake
}

func startSocketApp(t testing.TB) *socketApp {
	a := &socketApp{conns: make(chan net.Conn, 16), offered: make(chan string, 16)}
	a.port = app(t, func(w http.ResponseWriter, r *http.Request) {
		a.offered <- r.Header.Get("Sec-Websocket-Extensions") + r.Header.Get("X-Aws-Proxy-Auth")
		if a.before != nil {
			a.before()
			if r.Context().Err() != nil {
				return
			}
		}
		if a.refuse.Load() {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%s\r\n", a.protocol)
		a.conns <- conn
		conn.Write(frame(1, false, fmt.Sprintf("hello %d", a.opened.Add(1))))
		for {
			opcode, payload, err := readFrame(buffered.Reader)
			switch {
			case err != nil:
				return
			case opcode == 8:
				conn.Write(frame(8, false, payload))
				return
			case opcode == 9:
				conn.Write(frame(10, false, "app "+payload))
			case opcode < 8:
				conn.Write(frame(opcode, false, payload))
			}
		}
	})
	return a
}

// frame makes a final frame.
func frame(opcode byte, masked bool, payload string) []byte {
	made := []byte{0x80 | opcode}
	bit, data := byte(0), []byte(payload)
	if masked {
		bit = 0x80
	}
	switch {
	case len(data) < 126:
		made = append(made, bit|byte(len(data)))
	case len(data) < 1<<16:
		made = binary.BigEndian.AppendUint16(append(made, bit|126), uint16(len(data)))
	default:
		made = binary.BigEndian.AppendUint64(append(made, bit|127), uint64(len(data)))
	}
	if masked {
		mask := []byte{1, 2, 3, 4}
		made = append(made, mask...)
		for i := range data {
			data[i] ^= mask[i%4]
		}
	}
	return append(made, data...)
}

func readFrame(from io.Reader) (opcode byte, payload string, err error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(from, head); err != nil {
		return 0, "", err
	}
	length := uint64(head[1] & 0x7f)
	if extended := map[uint64]int{126: 2, 127: 8}[length]; extended > 0 {
		more := make([]byte, 8)
		if _, err := io.ReadFull(from, more[8-extended:]); err != nil {
			return 0, "", err
		}
		length = binary.BigEndian.Uint64(more)
	}
	mask := make([]byte, 4)
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(from, mask); err != nil {
			return 0, "", err
		}
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(from, data); err != nil {
		return 0, "", err
	}
	for i := range data {
		data[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, string(data), nil
}

// page is a client's end of a WebSocket.
type page struct {
	testing.TB
	conn *tls.Conn
	from *bufio.Reader
}

// page opens /chat, which a rule of quietRules parks.
func (m *machine) page(a *socketApp) *page { return m.pageAt(a, "/chat") }

func (m *machine) pageAt(a *socketApp, path string) *page {
	m.Helper()
	conn, reader, response := m.handshakeAt(path, map[string]string{
		"X-aws-proxy-auth": m.token(a.port), "X-aws-proxy-port": fmt.Sprint(a.port),
		"Sec-Websocket-Key": "c2VjcmV0", "Sec-Websocket-Extensions": "permessage-deflate",
	})
	if response.StatusCode != http.StatusSwitchingProtocols {
		m.Fatal(response.Status)
	}
	return &page{m.TB, conn, reader}
}

func (p *page) send(opcode byte, payload string) {
	p.Helper()
	if _, err := p.conn.Write(frame(opcode, true, payload)); err != nil {
		p.Fatal(err)
	}
}

func (p *page) expect(opcode byte, payload string) {
	p.Helper()
	p.conn.SetReadDeadline(time.Now().Add(2 * patience))
	gotOpcode, got, err := readFrame(p.from)
	if err != nil || gotOpcode != opcode || got != payload {
		p.Fatalf("opcode %d %.60q, %v; want %d %.60q", gotOpcode, got, err, opcode, payload)
	}
}

// ended wants a close frame with that code, or with 0 none, and then the end.
func (p *page) ended(code int) {
	p.Helper()
	if code != 0 {
		p.expect(8, string(binary.BigEndian.AppendUint16(nil, uint16(code))))
	}
	p.conn.SetReadDeadline(time.Now().Add(2 * patience))
	if opcode, payload, err := readFrame(p.from); err == nil {
		p.Fatalf("opcode %d %q after the end", opcode, payload)
	}
}

// parks makes a relay that parks WebSockets after so long a silence.
func parks(t testing.TB, settled time.Duration) *relay {
	t.Helper()
	r := startRelay(t)
	r.server.settled = settled
	r.ok("PUT", "/v1/config", r.config)
	return r
}

// fallsAsleep does what serve does for a suspend.
func (m *machine) fallsAsleep() {
	m.Helper()
	m.state("held")
	m.disconnect()
	m.state("suspended")
}

func (m *machine) wakes() {
	m.Helper()
	m.state("held")
	m.connect()
	m.state("running")
}

func (m *machine) parked() bool { return m.listed()["parked"] == 1.0 }

func TestAWebSocketOutlivesSleep(t *testing.T) {
	r := parks(t, 0)
	m := r.running("vm-1", quietRules())
	app, events := startSocketApp(t), r.subscribe()
	page := m.page(app)
	page.expect(1, "hello 1")
	page.send(1, "one")
	page.expect(1, "one")
	if offered := <-app.offered; offered != "" {
		t.Errorf("the app was offered %q", offered)
	}
	for round := range 3 {
		m.fallsAsleep()
		eventually(t, "the connection is parked", m.parked)
		before := m.listed()["last_byte_ms"]
		page.send(9, "are you there")
		page.expect(10, "are you there")
		page.send(10, "")
		if after := m.listed()["last_byte_ms"]; after != before {
			t.Errorf("pings were activity: %v, then %v", before, after)
		}
		select {
		case one := <-events:
			t.Errorf("%v after pings", one)
		default:
		}
		page.send(2, strings.Repeat("x", 200_000))
		if got := next(t, events); got != (event.Event{Type: "wake", VM: "vm-1"}) {
			t.Fatal(got)
		}
		m.wakes()
		page.expect(1, fmt.Sprintf("hello %d", round+2))
		page.expect(2, strings.Repeat("x", 200_000))
		eventually(t, "the connection is not parked", func() bool { return m.listed()["parked"] == 0.0 })
		if after := m.listed()["last_byte_ms"]; after == before {
			t.Error("a message was no activity")
		}
		for len(events) > 0 {
			<-events // a wake is repeated
		}
	}
	page.send(8, "\x03\xe8bye")
	page.expect(8, "\x03\xe8bye")
	page.ended(0)
	eventually(t, "nothing is open", func() bool { return m.listed()["open"] == 0.0 })
}

func TestAParkedWebSocketHearsOfAWakeThatIsNotItsOwn(t *testing.T) {
	m := parks(t, 0).running("vm-1", quietRules())
	app := startSocketApp(t)
	page := m.page(app)
	page.expect(1, "hello 1")
	m.fallsAsleep()
	eventually(t, "the connection is parked", m.parked)
	m.wakes()
	page.expect(1, "hello 2")
	page.send(9, "x")
	page.expect(10, "app x")
}

func TestPingsAreNoActivity(t *testing.T) {
	m := startRelay(t).running("vm-1", quietRules())
	app := startSocketApp(t)
	page := m.page(app)
	page.expect(1, "hello 1")
	before := m.listed()["last_byte_ms"]
	if before == 0.0 {
		t.Error("a message of the app was no activity")
	}
	eventually(t, "a millisecond is over", func() bool { return float64(time.Now().UnixMilli()) > before.(float64) })
	page.send(9, "x")
	page.expect(10, "app x")
	inApp := <-app.conns
	inApp.Write(frame(9, false, "y"))
	page.expect(9, "y")
	page.send(10, "y")
	page.send(9, "z")
	page.expect(10, "app z")
	if after := m.listed()["last_byte_ms"]; after != before {
		t.Errorf("last_byte_ms %v, then %v", before, after)
	}
	inApp.Write([]byte{0x01, 1, 'a', 0x80, 0}) // a message in two frames
	page.expect(1, "a")
	page.expect(0, "")
	if after := m.listed()["last_byte_ms"]; after == before {
		t.Error("a message of the app was no activity")
	}
}

func TestWhatMayHaveLostAMessageIsNotParked(t *testing.T) {
	for name, before := range map[string]func(m *machine, a *socketApp, p *page) int{
		"a message a moment ago": func(m *machine, _ *socketApp, p *page) int {
			p.send(1, "x")
			p.expect(1, "x")
			m.fallsAsleep()
			return 1012
		},
		"a part of a message from the client": func(m *machine, _ *socketApp, p *page) int {
			p.conn.Write([]byte{0x01, 0x80 | 1, 0, 0, 0, 0, 'x'})
			p.expect(1, "x")
			m.fallsAsleep()
			return 1012
		},
		"a part of a message from the app": func(m *machine, a *socketApp, p *page) int {
			(<-a.conns).Write([]byte{0x01, 1, 'x'})
			p.expect(1, "x")
			m.fallsAsleep()
			return 1012
		},
		"a part of a frame from the app": func(m *machine, a *socketApp, p *page) int {
			(<-a.conns).Write([]byte{0x81, 2, 'x'})
			eventually(m.TB, "it has passed", func() bool { _, err := p.from.Peek(3); return err == nil })
			m.fallsAsleep()
			return 0
		},
		"a VM that dies": func(m *machine, _ *socketApp, _ *page) int {
			m.guest.Kill()
			return 1012
		},
		"an app that goes": func(_ *machine, a *socketApp, _ *page) int {
			(<-a.conns).Close()
			return 1012
		},
	} {
		t.Run(name, func(t *testing.T) {
			settled := time.Duration(0)
			if name == "a message a moment ago" {
				settled = time.Hour
			}
			m := parks(t, settled).running("vm-1", quietRules())
			app := startSocketApp(t)
			page := m.page(app)
			page.expect(1, "hello 1")
			page.ended(before(m, app, page))
			eventually(t, "nothing is open", func() bool { l := m.listed(); return l["open"] == 0.0 && l["parked"] == 0.0 })
		})
	}
}

func TestAParkedWebSocketEnds(t *testing.T) {
	for name, c := range map[string]struct {
		after func(m *machine, a *socketApp, p *page)
		code  int
	}{
		"when its VM does":            {func(m *machine, _ *socketApp, _ *page) { m.state("gone") }, 1012},
		"when the app has changed":    {func(m *machine, a *socketApp, _ *page) { a.refuse.Store(true); m.wakes() }, 1012},
		"when its subprotocol has":    {func(m *machine, a *socketApp, _ *page) { a.protocol = "Sec-Websocket-Protocol: b\r\n"; m.wakes() }, 1012},
		"when its client says so":     {func(_ *machine, _ *socketApp, p *page) { p.send(8, "\x03\xe8"); p.expect(8, "\x03\xe8") }, 0},
		"when its client goes":        {func(_ *machine, _ *socketApp, p *page) { p.conn.Close() }, 0},
		"when its VM does not wake":   {func(_ *machine, _ *socketApp, p *page) { p.send(1, "wake up") }, 1013},
		"when its client talks wrong": {func(_ *machine, _ *socketApp, p *page) { p.conn.Write([]byte{0x81, 0}) }, 1002},
	} {
		t.Run(name, func(t *testing.T) {
			r := parks(t, 0)
			r.config["hold_s"] = 0.2
			r.ok("PUT", "/v1/config", r.config)
			m := r.running("vm-1", quietRules())
			app := startSocketApp(t)
			page := m.page(app)
			page.expect(1, "hello 1")
			m.fallsAsleep()
			eventually(t, "the connection is parked", m.parked)
			c.after(m, app, page)
			page.ended(c.code)
			eventually(t, "nothing is open", func() bool { l := m.listed(); return l["open"] == 0.0 && l["parked"] == 0.0 })
		})
	}
}

func TestAWebSocketWithoutARuleEndsWithSleep(t *testing.T) {
	m := parks(t, 0).running("vm-1", nil)
	page := m.page(startSocketApp(t))
	page.expect(1, "hello 1")
	m.fallsAsleep()
	page.ended(0)
}

func TestAParkedWebSocketThatMayNotWakeIsTold(t *testing.T) {
	rules := quietRules()
	rules["auto_resume"] = false
	m := parks(t, 0).running("vm-1", rules)
	page := m.page(startSocketApp(t))
	page.expect(1, "hello 1")
	m.fallsAsleep()
	eventually(t, "the connection is parked", m.parked)
	page.send(9, "x")
	page.expect(10, "x")
	page.send(1, "hello?")
	page.ended(1013)
}

func TestAHandshakeThatSleepOvertakesIsRepeated(t *testing.T) {
	m := parks(t, 0).running("vm-1", quietRules())
	app := startSocketApp(t)
	began, asleep := make(chan struct{}, 2), make(chan struct{})
	defer close(asleep)
	var handshakes atomic.Int32
	app.before = func() {
		began <- struct{}{}
		if handshakes.Add(1) == 1 {
			<-asleep // the first one is never answered
		}
	}
	opened := make(chan *page)
	go func() { opened <- m.page(app) }()
	<-began
	m.fallsAsleep()
	m.wakes()
	page := <-opened
	page.expect(1, "hello 1")
	page.send(1, "x")
	page.expect(1, "x")
}

func TestWhatAnAppTellsItsListenersIsNoActivity(t *testing.T) {
	m := parks(t, time.Hour).running("vm-1", quietRules())
	app := startSocketApp(t)
	page := m.pageAt(app, "/news")
	page.expect(1, "hello 1")
	if last := m.listed()["last_byte_ms"]; last != 0.0 {
		t.Errorf("last_byte_ms %v", last)
	}
	m.fallsAsleep() // what was said this moment is no hindrance
	eventually(t, "the connection is parked", m.parked)
	m.wakes()
	page.expect(1, "hello 2")
	page.send(1, "x")
	page.expect(1, "x")
	if last := m.listed()["last_byte_ms"]; last == 0.0 {
		t.Error("a message of the client was no activity")
	}
}
