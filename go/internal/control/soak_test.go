package control

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"
)

func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// settled waits until the process is no larger than it was, and tells what is left when it does not shrink.
func settled(t *testing.T, goroutines, fds int) {
	t.Helper()
	deadline := time.After(patience)
	for runtime.NumGoroutine() > goroutines || descriptors(t) > fds {
		select {
		case <-deadline:
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before; %d descriptors, %d before\n%s", runtime.NumGoroutine(), goroutines, descriptors(t), fds,
				stacks[:runtime.Stack(stacks, true)])
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Everything that comes and goes, many times: sessions, clients that leave in the middle, upgrades, tunnels outside, whole routes.
func TestNothingIsLeftBehind(t *testing.T) {
	r := startRelay(t)
	m := r.running("vm-1", nil)
	target := outside(t)
	r.allow([]string{target})
	ports := []int{hello(t), upgradeApp(t, "")}
	endless := app(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	round := func() {
		for _, choose := range []func(*http.Protocols, bool){http1, http2} {
			client := m.browser(choose)
			do(t, client, m.request("POST", "/", ports[0], strings.NewReader("x")))
			if response, err := client.Do(m.request("GET", "/", endless, nil)); err == nil {
				response.Body.Close() // in the middle of an answer
			}
			client.CloseIdleConnections()
		}
		conn, _, _ := m.handshake(map[string]string{"X-aws-proxy-auth": m.token(ports[1]), "X-aws-proxy-port": fmt.Sprint(ports[1])})
		defer conn.Close()
		if _, err := m.guest.Dial(t, target); err != nil {
			t.Fatal(err)
		}
		m.state("held")
		m.disconnect()
		r.ok("DELETE", "/vms/vm-1", nil)
		r.ok("PUT", "/vms/vm-1", m.route)
		m.connect()
		m.state("running")
	}
	round()
	m.disconnect()
	r.client.CloseIdleConnections()
	runtime.GC()
	var goroutines, fds int
	eventually(t, "the relay is quiet", func() bool {
		before := goroutines
		goroutines, fds = runtime.NumGoroutine(), descriptors(t)
		return goroutines == before
	})
	m.connect()
	for range 15 {
		round()
	}
	m.disconnect()
	r.client.CloseIdleConnections()
	settled(t, goroutines+4, fds+4) // keep-alive connections to the relay and to apps come and go
}

// benchmarkRequests measures small requests from a TLS client through the relay and the fake guest to an app, all in this process.
func benchmarkRequests(b *testing.B, choose func(*http.Protocols, bool), clients int) {
	m := startRelay(b).running("vm-1", nil)
	port := hello(b)
	client := m.browser(choose)
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = clients
	request := m.request("GET", "/", port, nil)
	do(b, client, request)
	var mu sync.Mutex
	var took []time.Duration
	work := make(chan struct{})
	var workers sync.WaitGroup
	for range clients {
		workers.Go(func() {
			for range work {
				start := time.Now()
				response, err := client.Do(request.Clone(b.Context()))
				if err != nil {
					b.Error(err)
					return
				}
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
				mu.Lock()
				took = append(took, time.Since(start))
				mu.Unlock()
			}
		})
	}
	b.ReportAllocs()
	for b.Loop() {
		work <- struct{}{}
	}
	close(work)
	workers.Wait()
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

func BenchmarkRequests(b *testing.B) {
	for _, clients := range []int{1, 50} {
		b.Run(fmt.Sprintf("http1-%d", clients), func(b *testing.B) { benchmarkRequests(b, http1, clients) })
		b.Run(fmt.Sprintf("http2-%d", clients), func(b *testing.B) { benchmarkRequests(b, http2, clients) })
	}
}

func BenchmarkDownload(b *testing.B) {
	m := startRelay(b).running("vm-1", nil)
	block := make([]byte, 1<<20)
	port := app(b, func(w http.ResponseWriter, _ *http.Request) { w.Write(block) })
	client := m.browser(http1)
	b.SetBytes(1 << 20)
	for b.Loop() {
		do(b, client, m.request("GET", "/", port, nil))
	}
}
