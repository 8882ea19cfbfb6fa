package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"rekindle/internal/event"
)

// subscribe reads the event stream in the background.
func (r *relay) subscribe() <-chan event.Event {
	r.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.Cleanup(cancel)
	request, _ := http.NewRequestWithContext(ctx, "GET", "http://relay/v1/events", nil)
	response, err := r.client.Do(request)
	if err != nil {
		r.Fatal(err)
	}
	events := make(chan event.Event, 64)
	go func() {
		defer close(events)
		defer response.Body.Close()
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			var one event.Event
			if json.Unmarshal(lines.Bytes(), &one) == nil {
				events <- one
			}
		}
	}()
	return events
}

func next(t testing.TB, events <-chan event.Event) event.Event {
	t.Helper()
	select {
	case one, open := <-events:
		if !open {
			t.Fatal("the event stream has ended")
		}
		return one
	case <-time.After(patience):
		t.Fatal("no event")
	}
	return event.Event{}
}

// inBackground sends a request; the returned channel gets status and body, or the failure.
func (m *machine) inBackground(port int) <-chan string {
	answers := make(chan string, 1)
	client, request := m.browser(http1), m.request("GET", "/", port, nil)
	go func() {
		response, err := client.Do(request)
		if err != nil {
			answers <- err.Error()
			return
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		answers <- fmt.Sprint(response.StatusCode, string(body), err)
	}()
	return answers
}

func hello(t testing.TB) int {
	return app(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
}

func TestRequestsAreHeldUntilTheVMRuns(t *testing.T) {
	m := startRelay(t).machine("vm-1", nil)
	answer := m.inBackground(hello(t))
	eventually(t, "the request waits", func() bool { return m.listed()["open"] == 1.0 })
	m.ok("POST", "/vms/vm-1/connect", map[string]any{"timeout_ms": 1000}) // the guest is paused: no sync yet
	m.state("running")
	m.guest.Run()
	if got := <-answer; got != "200hello<nil>" {
		t.Error(got)
	}
}

func TestHoldingEnds(t *testing.T) {
	r := startRelay(t)
	r.config["hold_s"] = 0.1
	r.ok("PUT", "/v1/config", r.config)
	m := r.machine("vm-1", nil)
	response, body := do(t, m.browser(http1), m.request("GET", "/", 8080, nil))
	check(t, response, body, 502, "", "")
}

func TestARequestWakesASleepingVM(t *testing.T) {
	r := startRelay(t)
	m := r.machine("vm-1", map[string]any{"state": "suspended"})
	answer := m.inBackground(hello(t))
	eventually(t, "the request waits", func() bool { return m.listed()["open"] == 1.0 })
	events := r.subscribe() // serve was away when the request came
	for range 2 {           // and the event is repeated
		if got := next(t, events); got != (event.Event{Type: "wake", VM: "vm-1"}) {
			t.Fatal(got)
		}
	}
	m.state("held")
	m.guest.Run()
	m.connect()
	m.state("running")
	if got := <-answer; got != "200hello<nil>" {
		t.Error(got)
	}
}

func TestTooManyHeldRequests(t *testing.T) {
	m := startRelay(t).machine("vm-1", nil)
	client := m.browser(http2)
	ctx, cancel := context.WithCancel(t.Context())
	var held sync.WaitGroup
	defer held.Wait()
	defer cancel()
	refused := make(chan *http.Response, 1)
	for range 129 {
		request := m.request("GET", "/", 8080, nil).WithContext(ctx)
		held.Go(func() {
			if response, err := client.Do(request); err == nil {
				response.Body.Close()
				refused <- response
			}
		})
	}
	response := <-refused
	check(t, response, "", 429, "", "")
}

func TestDisconnectCutsWhatIsUnderWay(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	port := app(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	bothProtocols(t, func(t *testing.T, choose func(*http.Protocols, bool)) {
		response, err := m.browser(choose).Do(m.request("GET", "/", port, nil))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		m.state("held")
		m.disconnect()
		if m.guest.Connections() > 0 {
			eventually(t, "the guest sees the end", func() bool { return m.guest.Connections() == 0 })
		}
		if _, err := io.ReadAll(response.Body); err == nil {
			t.Error("the answer looked whole")
		}
		m.connect()
		m.state("running")
	})
}

// A request that meets a VM on its way to sleep was not sent: it waits for the VM to wake and is answered then.
func TestSuspendLosesNoRequest(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", nil)
	port := hello(t)
	events := r.subscribe()
	client := m.browser(http1)
	stop := make(chan struct{})
	var asked int
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			response, err := client.Do(m.request("GET", "/", port, nil))
			if err != nil {
				t.Error(err)
				return
			}
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			// 502 is for a request that may have reached the app when the channel went.
			if err != nil || string(body) != "hello" && response.StatusCode != 502 {
				t.Error(response.StatusCode, string(body), err)
			}
			asked++
		}
	})
	for range 20 {
		m.state("held")
		m.disconnect()
		m.state("suspended")
		if got := next(t, events); got.Type != "wake" {
			t.Fatal(got)
		}
		m.state("held")
		m.connect()
		m.state("running")
	}
	close(stop)
	asking.Wait()
	if asked < 3 {
		t.Errorf("%d requests", asked)
	}
}

func TestTheEndOfAGuestIsReported(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", nil)
	events := r.subscribe()
	m.guest.Kill()
	if got := next(t, events); got != (event.Event{Type: "channel_lost", VM: "vm-1"}) {
		t.Error(got)
	}
	if m.listed()["connected"] != false {
		t.Error("still connected")
	}
	if status, _ := r.call("POST", "/vms/vm-1/connect", map[string]any{"timeout_ms": 50}); status != 502 {
		t.Error(status)
	}
}

func TestDisconnectIsNoLoss(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", nil)
	other := r.running("vm-2", nil)
	events := r.subscribe()
	m.disconnect()
	m.disconnect()
	other.guest.Kill()
	if got := next(t, events); got.VM != "vm-2" {
		t.Error(got)
	}
}

func TestConnectAgainChangesNothing(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	before := m.guest.Connections()
	m.connect()
	m.ok("PUT", "/vms/vm-1", m.route)
	m.connect()
	m.state("running")
	if m.guest.Connections() != before || m.listed()["connected"] != true {
		t.Error("the channel was touched")
	}
	if got := <-m.inBackground(hello(t)); got != "200hello<nil>" {
		t.Error(got)
	}
}

func TestAgentRequestsWaitAndStream(t *testing.T) {
	r := startRelay(t)
	m := r.machine("vm-1", nil)
	left := make(chan struct{})
	m.guest.Agent.HandleFunc("POST /v1/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Rekindle-Log-End", r.URL.RawQuery)
		w.WriteHeader(299)
		io.Copy(w, r.Body)
	})
	m.guest.Agent.HandleFunc("GET /v1/wait", func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(left)
	})
	m.ok("POST", "/vms/vm-1/connect", map[string]any{"timeout_ms": 1000})
	done := make(chan map[string]any, 1)
	go func() { done <- m.ok("GET", "/vms/vm-1/agent/v1/status", nil) }()
	m.guest.Run()
	if answer := <-done; answer["booted"] != true {
		t.Error(answer)
	}
	response, err := r.client.Post("http://relay/vms/vm-1/agent/v1/echo?offset=7", "text/plain", strings.NewReader("abc"))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if response.StatusCode != 299 || string(body) != "abc" || response.Header.Get("Rekindle-Log-End") != "offset=7" {
		t.Errorf("%d %q %v", response.StatusCode, body, response.Header)
	}
	if response, err = r.client.Get("http://relay/vms/vm-1/agent/v1/wait"); err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	<-left
}

func TestAgentRequestsFailWithTheChannel(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", nil)
	asked := make(chan struct{})
	m.guest.Agent.HandleFunc("GET /v1/slow", func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	status := make(chan int, 1)
	go func() {
		code, _ := r.call("GET", "/vms/vm-1/agent/v1/slow", nil)
		status <- code
	}()
	<-asked
	m.disconnect()
	if got := <-status; got != 503 {
		t.Error(got)
	}
}

// After its own death the relay is told everything anew, and running guests answer a new sync.
func TestANewRelayTakesTheVMsUp(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", nil)
	port := hello(t)
	r.stop()
	r.start()
	r.ok("PUT", "/v1/config", r.config)
	m.route["state"] = "running"
	r.ok("PUT", "/vms/vm-1", m.route)
	m.connect()
	if got := <-m.inBackground(port); got != "200hello<nil>" {
		t.Error(got)
	}
}

func TestASecondRelayIsRefused(t *testing.T) {
	r := startRelay(t)
	if _, err := Listen(r.socket); err != ErrTaken {
		t.Errorf("%v", err)
	}
	r.ok("GET", "/v1/health", nil)
}

// A restored guest may hold a dead session, which only a new connection ends (docs/contracts.md §2).
func TestAGuestThatDoesNotAnswerIsDialledAgain(t *testing.T) {
	m := startRelay(t).machine("vm-1", map[string]any{"state": "running"})
	m.guest.Deaf.Store(1)
	m.guest.Run()
	start := time.Now()
	m.connect()
	if took := time.Since(start); took < 900*time.Millisecond || took > 5*time.Second {
		t.Errorf("after %v", took)
	}
	if got := <-m.inBackground(hello(t)); got != "200hello<nil>" {
		t.Error(got)
	}
}

func TestReadyFailsInTime(t *testing.T) {
	m := startRelay(t).machine("vm-1", nil)
	if status, _ := m.call("POST", "/vms/vm-1/connect?ready=1", map[string]any{"timeout_ms": 100}); status != 504 {
		t.Error(status)
	}
	m.disconnect()
}

func TestABakedGuestHasNoEndpoint(t *testing.T) {
	r := startRelay(t)
	for _, id := range []string{"bake-1", "bake-2"} {
		m := r.machine(id, map[string]any{"endpoint_port": 0, "endpoint_host": "", "ingress": false})
		m.guest.Run()
		m.connect()
		if answer := m.ok("GET", "/vms/"+id+"/agent/v1/status", nil); answer["booted"] != true {
			t.Error(answer)
		}
		r.ok("DELETE", "/vms/"+id, nil)
	}
}

// A guest may end its session while its sockets stay open. When the VM does not run the next one starts with `connect`, not by itself.
func TestASessionEndedByTheGuest(t *testing.T) {
	m := startRelay(t).running("vm-1", nil)
	m.state("held")
	m.guest.EndSession()
	eventually(t, "the channel is down", func() bool { return m.listed()["connected"] == false })
	m.connect()
	m.state("running")
	if got := <-m.inBackground(hello(t)); got != "200hello<nil>" {
		t.Error(got)
	}
}

func TestCertificatesAndKeysAreReplaced(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", nil)
	port := hello(t)
	old := m.request("GET", "/", port, nil)
	r.makeCertificate() // in place, as a renewal does
	r.config["token_keys"] = []any{map[string]any{"kid": "k1", "key": base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{8}, 32))}}
	r.ok("PUT", "/v1/config", r.config)
	response, body := do(t, m.browser(http1), old) // trusts the new certificate only
	check(t, response, body, 403, "Request missing authentication", "UNAUTHORIZED")
}
