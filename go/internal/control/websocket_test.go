package control

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// upgradeApp agrees to every upgrade, says which subprotocols it was offered, selects one if told to, then echoes lines in capitals.
func upgradeApp(t *testing.T, selected string) int {
	return app(t, func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(buffered, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Offered: %s\r\n",
			r.Header.Get("Upgrade"), strings.Join(r.Header["Sec-Websocket-Protocol"], ","))
		if selected != "" {
			fmt.Fprintf(buffered, "Sec-WebSocket-Protocol: %s\r\n", selected)
		}
		io.WriteString(buffered, "\r\nfirst\n")
		buffered.Flush()
		for lines := bufio.NewScanner(buffered); lines.Scan(); {
			fmt.Fprintln(conn, strings.ToUpper(lines.Text()))
		}
		fmt.Fprintln(conn, "bye")
	})
}

// handshake upgrades a connection of its own.
func (m *machine) handshake(header map[string]string) (*tls.Conn, *bufio.Reader, *http.Response) {
	m.Helper()
	return m.handshakeAt("/chat", header)
}

func (m *machine) handshakeAt(path string, header map[string]string) (*tls.Conn, *bufio.Reader, *http.Response) {
	m.Helper()
	conn, err := tls.Dial("tcp", fmt.Sprintf("localhost:%d", m.port), &tls.Config{RootCAs: m.roots})
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { conn.Close() })
	request, _ := http.NewRequest("GET", m.url(path), nil)
	request.Header.Set("Connection", "keep-alive, Upgrade")
	request.Header.Set("Upgrade", "websocket")
	for name, value := range header {
		request.Header.Set(name, value)
	}
	if err := request.Write(conn); err != nil {
		m.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		m.Fatal(err)
	}
	return conn, reader, response
}

func TestWebSocketSubprotocols(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	plain, chat := upgradeApp(t, ""), upgradeApp(t, "chat.v1")
	offer := func(port int, more ...string) string {
		ours := []string{"lambda-microvms.port." + fmt.Sprint(port), "lambda-microvms", "lambda-microvms.authentication." + m.token(port)}
		return strings.Join(append(ours, more...), ", ")
	}
	header := func(port int) map[string]string {
		return map[string]string{"X-aws-proxy-auth": m.token(port), "X-aws-proxy-port": fmt.Sprint(port)}
	}
	with := func(headers map[string]string, offered string) map[string]string {
		headers["Sec-Websocket-Protocol"] = offered
		return headers
	}
	cases := []struct {
		name              string
		header            map[string]string
		status            int
		offered, selected string
	}{
		{"only ours", with(map[string]string{}, offer(plain)), 101, "", "lambda-microvms"},
		{"a fourth the app ignores", with(map[string]string{}, offer(plain, "chat.v1")), 101, "chat.v1", "lambda-microvms"},
		{"a fourth the app selects", with(map[string]string{}, offer(chat, "chat.v1", "chat.v2")), 101, "chat.v1, chat.v2", "chat.v1"},
		{"by header", header(plain), 101, "", ""},
		{"by header, with a protocol", with(header(chat), "chat.v1"), 101, "chat.v1", "chat.v1"},
		{"by header, with the marker", with(header(plain), "lambda-microvms"), 101, "", "lambda-microvms"},
		{"no marker", with(map[string]string{}, strings.Replace(offer(plain), " lambda-microvms,", "", 1)), 403, "", ""},
		{"no token", with(map[string]string{}, "lambda-microvms"), 403, "", ""},
		{"bad token", with(map[string]string{}, "lambda-microvms, lambda-microvms.authentication.x"), 403, "", ""},
		{"port not covered", with(map[string]string{}, strings.Replace(offer(plain), "port."+fmt.Sprint(plain), "port.1", 1)), 403, "", ""},
		{"port no number", with(map[string]string{}, strings.Replace(offer(plain), "port."+fmt.Sprint(plain), "port.x", 1)), 400, "", ""},
		{"port empty", with(map[string]string{}, strings.Replace(offer(plain), "port."+fmt.Sprint(plain), "port.", 1)), 400, "", ""},
	}
	for _, c := range cases {
		conn, reader, response := m.handshake(c.header)
		got := []string{fmt.Sprint(response.StatusCode), response.Header.Get("X-Offered"), response.Header.Get("Sec-Websocket-Protocol")}
		if want := []string{fmt.Sprint(c.status), c.offered, c.selected}; strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%s: %q, want %q", c.name, got, want)
		}
		if response.StatusCode != 101 {
			continue
		}
		if response.Header.Get("Connection") != "Upgrade" || response.Header.Get("Upgrade") != "websocket" || response.Header.Get("X-Amzn-Requestid") == "" {
			t.Errorf("%s: %v", c.name, response.Header)
		}
		io.WriteString(conn, "hi\n")
		conn.CloseWrite()
		if all, err := io.ReadAll(reader); string(all) != "first\nHI\nbye\n" {
			t.Errorf("%s: %q, %v", c.name, all, err)
		}
	}
	eventually(t, "no upgraded connection is open", func() bool { return m.listed()["open"] == 0.0 })
}

func TestUpgradedConnectionsEndWithTheChannelAndTheApp(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	port := upgradeApp(t, "")
	header := map[string]string{"X-aws-proxy-auth": m.token(port), "X-aws-proxy-port": fmt.Sprint(port)}
	_, reader, _ := m.handshake(header)
	m.state("held")
	m.disconnect()
	if all, err := io.ReadAll(reader); strings.Contains(string(all), "bye") {
		t.Errorf("%q, %v", all, err)
	}
	eventually(t, "no upgraded connection is open", func() bool { return m.listed()["open"] == 0.0 })
}

func TestARefusedUpgradeIsAnOrdinaryAnswer(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	port := app(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, r.Header.Get("Upgrade"))
	})
	_, _, response := m.handshake(map[string]string{"X-aws-proxy-auth": m.token(port), "X-aws-proxy-port": fmt.Sprint(port)})
	if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusTeapot || string(body) != "websocket" {
		t.Errorf("%d %q", response.StatusCode, body)
	}
	_, _, response = m.handshake(map[string]string{"X-aws-proxy-auth": m.token(port), "X-aws-proxy-port": fmt.Sprint(port), "Upgrade": "h2c"})
	if body, _ := io.ReadAll(response.Body); string(body) != "" {
		t.Errorf("the app was asked to upgrade to %q", body)
	}
}
