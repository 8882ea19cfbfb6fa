package control

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"testing"
	"time"

	"rekindle/internal/token"
)

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// check compares an answer of the proxy itself with spec §2.4.
func check(t testing.TB, response *http.Response, body string, status int, text, code string) {
	t.Helper()
	if response.StatusCode != status || body != text || response.Header.Get("x-aws-proxy-error") != code {
		t.Errorf("%d %q %q, want %d %q %q", response.StatusCode, body, response.Header.Get("x-aws-proxy-error"), status, text, code)
	}
	if !uuid.MatchString(response.Header.Get("x-amzn-requestid")) || response.Header.Get("cache-control") != "private, no-store" {
		t.Errorf("headers %v", response.Header)
	}
}

func TestRefusalsInTheirOrder(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	port := app(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	now := time.Now().Unix()
	good := token.Claims{VM: "vm-1", Generation: 1, Ports: [][2]int{{port, port}}, ExpiresAtS: now + 60, Use: "app"}
	with := func(change func(*token.Claims)) string {
		changed := good
		change(&changed)
		return mint(t, changed)
	}
	const missing, failed, denied = "Request missing authentication", "Token authentication failed", "Access to port denied"
	cases := []struct {
		name, token, port string
		status            int
		body, errorCode   string
	}{
		{"good", mint(t, good), fmt.Sprint(port), 200, "hello", ""},
		{"no token", "", fmt.Sprint(port), 403, missing, "UNAUTHORIZED"},
		{"no token, bad port", "", "x", 403, missing, "UNAUTHORIZED"},
		{"unreadable", "abc", fmt.Sprint(port), 403, missing, "UNAUTHORIZED"},
		{"other VM, bad port", with(func(c *token.Claims) { c.VM = "vm-2" }), "x", 403, failed, "UNAUTHORIZED"},
		{"earlier generation", with(func(c *token.Claims) { c.Generation = 0 }), fmt.Sprint(port), 403, failed, "UNAUTHORIZED"},
		{"expired", with(func(c *token.Claims) { c.ExpiresAtS = now }), fmt.Sprint(port), 403, failed, "UNAUTHORIZED"},
		{"shell token", with(func(c *token.Claims) { c.Use = "shell" }), fmt.Sprint(port), 502, "", ""},
		{"port not covered", mint(t, good), fmt.Sprint(port%65535 + 1), 403, denied, ""},
		{"default port not covered", mint(t, good), "", 403, denied, ""},
		{"no number", mint(t, good), "80a", 400, "", ""},
		{"signed", mint(t, good), "+80", 400, "", ""},
		{"zero", mint(t, good), "0", 400, "", ""},
		{"too large", mint(t, good), "65536", 400, "", ""},
		{"far too large", mint(t, good), "99999999999999999999999", 400, "", ""},
	}
	bothProtocols(t, func(t *testing.T, choose func(*http.Protocols, bool)) {
		client := m.browser(choose)
		for _, c := range cases {
			request, _ := http.NewRequest("GET", m.url("/"), nil)
			if c.token != "" {
				request.Header.Set("X-aws-proxy-auth", c.token)
			}
			if c.port != "" {
				request.Header.Set("X-aws-proxy-port", c.port)
			}
			response, body := do(t, client, request)
			if c.status == 200 {
				if response.StatusCode != 200 || body != c.body {
					t.Errorf("%s: %d %q", c.name, response.StatusCode, body)
				}
				continue
			}
			t.Run(c.name, func(t *testing.T) { check(t, response, body, c.status, c.body, c.errorCode) })
		}
	})
}

func TestStatesWithoutAnApp(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", map[string]any{"auto_resume": false})
	closed := freePort(t)
	client := m.browser(http1)
	answered := func(status int, code string) {
		t.Helper()
		response, body := do(t, client, m.request("POST", "/", closed, nil))
		check(t, response, body, status, "", code)
	}
	answered(502, "APP_CONNECT_FAILED")
	m.state("suspended")
	answered(502, "")
	m.state("gone")
	answered(502, "MICROVM_CONNECT_FAILED")
	closedOff := r.running("vm-2", map[string]any{"ingress": false})
	response, body := do(t, client, closedOff.request("GET", "/", closed, nil))
	check(t, response, body, 502, "", "")
}

func TestHostModeTellsVMsApartByName(t *testing.T) {
	r := startRelay(t)
	r.config["domain"] = "vm.test"
	r.ok("PUT", "/v1/config", r.config)
	first := r.running("vm-1", nil)
	second := r.running("vm-2", map[string]any{"endpoint_port": first.port})
	port := app(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) })
	client := first.browser(http1)
	ask := func(m *machine, host string) (*http.Response, string) {
		request := m.request("GET", "/", port, nil)
		request.Host = host
		return do(t, client, request)
	}
	for _, m := range []*machine{first, second} {
		for _, host := range []string{"host-" + m.id + ".vm.test", fmt.Sprintf("HOST-%s.localhost:%d", m.id, m.port)} {
			if _, body := ask(m, host); body != host {
				t.Errorf("%s: %q", host, body)
			}
		}
	}
	for _, host := range []string{"host-vm-2.vm.test", "localhost", "nobody.vm.test", "host-vm-1.other.test"} {
		response, body := ask(first, host)
		check(t, response, body, 403, "Token authentication failed", "UNAUTHORIZED")
	}
	r.ok("DELETE", "/vms/vm-1", nil)
	if _, body := ask(second, "host-vm-2.vm.test"); body != "host-vm-2.vm.test" {
		t.Error("the other VM went with it")
	}
}

func TestEndpointPorts(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", nil)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, port := range []int{m.port, taken.Addr().(*net.TCPAddr).Port} {
		changed := map[string]any{}
		for key, value := range m.route {
			changed[key] = value
		}
		changed["endpoint_port"] = port
		if status, answer := r.call("PUT", "/vms/vm-2", changed); status != 409 || answer["error"] != "port in use" {
			t.Errorf("%d %v", status, answer)
		}
	}
	port := app(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	for _, address := range []string{"127.0.0.1", "[::1]"} {
		request := m.request("GET", "/", port, nil)
		request.URL.Host = fmt.Sprintf("%s:%d", address, m.port)
		if _, body := do(t, m.browser(http1), request); body != "hello" {
			t.Errorf("%s: %q", address, body)
		}
	}
	moved := freePort(t)
	m.route["endpoint_port"], m.route["state"] = moved, "running"
	r.ok("PUT", "/vms/vm-1", m.route)
	if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", m.port)); err == nil {
		t.Error("the old port is still open")
	}
	m.port = moved
	if _, body := do(t, m.browser(http1), m.request("GET", "/", port, nil)); body != "hello" {
		t.Errorf("after the move: %q", body)
	}
	r.ok("DELETE", "/vms/vm-1", nil)
	r.ok("DELETE", "/vms/vm-1", nil)
	if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", moved)); err == nil {
		t.Error("a deleted VM's port is still open")
	}
}

func TestBadControlRequestsSayWhatIsWrong(t *testing.T) {
	r := startRelay(t)
	cases := []struct {
		method, path, body string
		status             int
	}{
		{"PUT", "/vms/x", `{"state":"asleep"}`, 400},
		{"PUT", "/vms/x", `{"state":"held","endpoint_port":-1}`, 400},
		{"PUT", "/vms/x", `{"state":"held","endpoint_port":1,"default_port":8080,"egress":"all"}`, 400},
		{"PUT", "/vms/x", `{"state":"held","endpoint_port":1,"default_port":8080,"egress":"none","in":"a"}`, 400},
		{"PUT", "/vms/x", `{"color":1}`, 400},
		{"PUT", "/vms/x/state", `{"state":"held"}`, 404},
		{"POST", "/vms/x/connect", `{}`, 404},
		{"PUT", "/v1/config", `{"token_keys":[{"kid":"a","key":"AAAA"}]}`, 400},
		{"PUT", "/v1/config", `{"certificate":"/nowhere"}`, 400},
	}
	for _, c := range cases {
		status, answer := r.call(c.method, c.path, json.RawMessage(c.body))
		if text, _ := answer["error"].(string); status != c.status || text == "" {
			t.Errorf("%s %s %s: %d %v", c.method, c.path, c.body, status, answer)
		}
	}
	if answer := r.ok("GET", "/v1/health", nil); answer["configured"] != true || answer["vms"] != 0.0 || answer["version"] != "test" {
		t.Error(answer)
	}
}

// A guest that could say it would be asked again for ever.
func TestOnlyTheRelaySaysThatThereIsNoRoute(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", nil)
	m.guest.Agent.HandleFunc("GET /v1/lies", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(noRoute, "1")
		w.WriteHeader(http.StatusNotFound)
	})
	for path, said := range map[string]string{"/vms/vm-1/agent/v1/lies": "", "/vms/vm-2/agent/v1/lies": "1"} {
		response, err := r.client.Get("http://relay" + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if got := response.Header.Get(noRoute); response.StatusCode != 404 || got != said {
			t.Errorf("%s: %d, %q", path, response.StatusCode, got)
		}
	}
}
