package control

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"rekindle/internal/event"
)

func quietRules() map[string]any {
	return map[string]any{"quiet": []any{
		map[string]any{"effect": "ignore", "methods": []string{"GET"}, "path": "/poll/**", "status": 503},
		map[string]any{"effect": "ignore", "path": "/busy", "query": "lang=*", "status": 429},
		map[string]any{"effect": "wake", "methods": []string{"PUT"}, "path": "/save/*"},
		map[string]any{"effect": "park", "methods": []string{"WEBSOCKET"}, "path": "/chat"},
		map[string]any{"effect": "listen", "methods": []string{"WEBSOCKET"}, "path": "/news"},
	}}
}

// echo sends back what it is sent.
func echo(t testing.TB) int {
	return app(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Write(body)
	})
}

func TestQuietRequestsAreNoActivity(t *testing.T) {
	bothProtocols(t, func(t *testing.T, choose func(*http.Protocols, bool)) {
		m := startRelay(t).running("vm-1", quietRules())
		client, port := m.browser(choose), echo(t)
		for _, one := range []struct{ method, path string }{{"GET", "/poll"}, {"GET", "/poll/a/b?1"}, {"POST", "/busy?lang=de"}, {"PUT", "/save/1"}} {
			response, body := do(t, client, m.request(one.method, one.path, port, strings.NewReader("some words")))
			if response.StatusCode != 200 || body != "some words" {
				t.Errorf("%v: %d %q", one, response.StatusCode, body)
			}
		}
		if listed := m.listed(); listed["last_byte_ms"] != 0.0 || listed["bytes_in"].(float64) < 40 || listed["bytes_out"].(float64) < 40 {
			t.Errorf("after quiet requests only: %v", listed)
		}
		for _, one := range []struct{ method, path string }{{"POST", "/poll"}, {"GET", "/busy"}, {"PUT", "/save/1/2"}, {"GET", "/poll%2fa"}} {
			before := time.Now().UnixMilli()
			do(t, client, m.request(one.method, one.path, port, nil))
			if last := m.listed()["last_byte_ms"].(float64); last < float64(before) {
				t.Errorf("%v was no activity", one)
			}
		}
	})
}

func TestQuietRequestsDoNotWake(t *testing.T) {
	bothProtocols(t, func(t *testing.T, choose func(*http.Protocols, bool)) {
		r := startRelay(t)
		rules := quietRules()
		rules["state"] = "suspended"
		m := r.machine("vm-1", rules)
		client, port, events := m.browser(choose), hello(t), r.subscribe()
		for path, status := range map[string]int{"/poll/a": 503, "/busy?lang=en": 429} {
			response, body := do(t, client, m.request("GET", path, port, nil))
			if response.StatusCode != status || response.Header.Get("Retry-After") != "30" || !strings.Contains(body, "does not wake") || response.Header.Get("X-Amzn-Requestid") == "" {
				t.Errorf("%s: %d %q %v", path, response.StatusCode, body, response.Header)
			}
		}
		select {
		case one := <-events:
			t.Errorf("%v after quiet requests", one)
		default:
		}
		woken := make(chan string, 1)
		saving := m.request("PUT", "/save/1", port, nil)
		go func() {
			_, body := do(t, client, saving)
			woken <- body
		}()
		if got := next(t, events); got != (event.Event{Type: "wake", VM: "vm-1"}) {
			t.Error(got)
		}
		m.state("held")
		m.guest.Run()
		m.connect()
		m.state("running")
		if got := <-woken; got != "hello" {
			t.Error(got)
		}
		if _, body := do(t, client, m.request("GET", "/poll/a", port, nil)); body != "hello" {
			t.Error(body)
		}
		if last := m.listed()["last_byte_ms"]; last != 0.0 {
			t.Errorf("last_byte_ms %v", last)
		}
	})
}

func TestAQuietRequestIsHeldWhileItsVMMayYetRun(t *testing.T) {
	m := startRelay(t).machine("vm-1", map[string]any{"quiet": []any{map[string]any{"effect": "ignore", "path": "/**", "status": 503}}})
	first := m.inBackground(hello(t))
	eventually(t, "the request waits", func() bool { return m.listed()["open"] == 1.0 })
	m.guest.Run()
	m.connect()
	m.state("running")
	if got := <-first; got != "200hello<nil>" {
		t.Error(got)
	}
	m.state("held")
	second := m.inBackground(hello(t))
	eventually(t, "the request waits", func() bool { return m.listed()["open"] == 1.0 })
	m.disconnect()
	m.state("suspended")
	if got := <-second; !strings.HasPrefix(got, "503The microVM is suspended") {
		t.Error(got)
	}
}

func TestAQuietRequestThatSleepOvertakesIsToldSo(t *testing.T) {
	m := startRelay(t).running("vm-1", map[string]any{"quiet": []any{map[string]any{"effect": "ignore", "path": "/**", "status": 503}}})
	for name, says := range map[string]func(w http.ResponseWriter){
		"nothing yet": func(http.ResponseWriter) {},
		"its head only": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "5")
			http.NewResponseController(w).Flush()
		},
	} {
		began := make(chan struct{})
		port := app(t, func(w http.ResponseWriter, r *http.Request) {
			says(w)
			close(began)
			<-r.Context().Done()
		})
		answer := m.inBackground(port)
		<-began
		m.state("held")
		m.disconnect()
		m.state("suspended")
		if got := <-answer; !strings.HasPrefix(got, "503The microVM is suspended") {
			t.Errorf("%s: %s", name, got)
		}
		m.wakes()
	}
}

func TestRulesThatAreNoneAreRefused(t *testing.T) {
	r := startRelay(t)
	m := r.machine("vm-1", nil)
	m.route["quiet"] = []any{map[string]any{"effect": "ignore", "path": "nowhere", "status": 503}}
	if status, answer := r.call("PUT", "/vms/vm-1", m.route); status != 400 || !strings.Contains(answer["error"].(string), "quiet[0]: path must begin with /") {
		t.Error(status, answer)
	}
	delete(m.route, "quiet")
	m.route["loud"] = true
	// serve reads this sentence: a member that a relay does not know is left out for it
	if status, answer := r.call("PUT", "/vms/vm-1", m.route); status != 400 || !strings.Contains(answer["error"].(string), `unknown field "loud"`) {
		t.Error(status, answer)
	}
}
