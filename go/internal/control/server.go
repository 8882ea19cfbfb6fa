package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"rekindle/internal/egress"
	"rekindle/internal/event"
	"rekindle/internal/ingress"
	"rekindle/internal/vm"
	"rekindle/internal/wall"
)

const maxBody = 1 << 20

// Server answers control requests. It owns the VMs, their endpoints and the way out.
type Server struct {
	version    string
	started    time.Time
	hub        *event.Hub
	table      *vm.Table
	gateway    *egress.Gateway
	proxy      *ingress.Proxy
	endpoints  *ingress.Endpoints
	configured atomic.Pointer[Config]
	routing    chan struct{} // holds a token: one change of routes at a time
	settled    time.Duration // ingress.Settings.Settled
}

// NewServer makes a relay without VMs that was not configured yet.
func NewServer(version string) *Server {
	s := &Server{version: version, started: wall.Now(), hub: event.NewHub(), gateway: egress.NewGateway(), proxy: &ingress.Proxy{}}
	s.endpoints = ingress.NewEndpoints(s.proxy)
	s.table = vm.NewTable(s.hub, func(m *vm.Meter) http.Handler { return s.gateway.Guest(&m.EgressIn, &m.EgressOut) })
	s.routing = make(chan struct{}, 1)
	s.settled = time.Second
	return s
}

// Handler is the whole control API.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/health", s.health)
	mux.HandleFunc("PUT /v1/config", s.putConfig)
	mux.HandleFunc("GET /v1/events", s.events)
	mux.HandleFunc("GET /vms", s.list)
	mux.HandleFunc("GET /vms/{id}", s.known(s.get))
	mux.HandleFunc("PUT /vms/{id}", s.putRoute)
	mux.HandleFunc("DELETE /vms/{id}", s.deleteRoute)
	mux.HandleFunc("PUT /vms/{id}/state", s.known(s.putState))
	mux.HandleFunc("POST /vms/{id}/connect", s.known(s.connect))
	mux.HandleFunc("POST /vms/{id}/disconnect", s.known(s.disconnect))
	mux.HandleFunc("/vms/{id}/agent/{rest...}", s.known(s.agent))
	return mux
}

// Close ends every endpoint and channel. The guests stay as they are.
func (s *Server) Close() {
	s.endpoints.CloseAll()
	for id := range s.table.All() {
		s.table.Delete(id)
	}
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{
		"pid":           os.Getpid(),
		"version":       s.version,
		"started_at_ms": s.started.UnixMilli(),
		"configured":    s.configured.Load() != nil,
		"vms":           len(s.table.All()),
	})
}

func (s *Server) putConfig(w http.ResponseWriter, r *http.Request) {
	var config Config
	if !read(w, r, &config) {
		return
	}
	if err := s.apply(&config); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	reply(w, http.StatusOK, struct{}{})
}

func (s *Server) putRoute(w http.ResponseWriter, r *http.Request) {
	var route vm.Route
	if !read(w, r, &route) {
		return
	}
	if err := route.Check(); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	config := s.configured.Load()
	if config == nil {
		fail(w, http.StatusServiceUnavailable, errors.New("no configuration yet: PUT /v1/config comes first"))
		return
	}
	err := s.route(r.PathValue("id"), route, config.Domain != "")
	switch {
	case errors.Is(err, ingress.ErrPortInUse):
		reply(w, http.StatusConflict, map[string]string{"error": "port in use"})
	case err != nil:
		fail(w, http.StatusInternalServerError, err)
	default:
		reply(w, http.StatusOK, struct{}{})
	}
}

// route opens the endpoint before it replaces anything, so that a failure changes nothing.
func (s *Server) route(id string, route vm.Route, shared bool) error {
	s.routing <- struct{}{}
	defer func() { <-s.routing }()
	target := s.table.Prepare(id, route)
	if err := s.endpoints.Open(target, route.EndpointPort, route.EndpointHost, shared); err != nil {
		return err
	}
	if before := target.Route(); before.EndpointPort != route.EndpointPort {
		s.endpoints.Close(target, before.EndpointPort)
	}
	target.SetRoute(route)
	s.table.Put(target)
	return nil
}

func (s *Server) deleteRoute(w http.ResponseWriter, r *http.Request) {
	s.routing <- struct{}{}
	defer func() { <-s.routing }()
	if gone := s.table.Delete(r.PathValue("id")); gone != nil {
		s.endpoints.Close(gone, gone.Route().EndpointPort)
	}
	reply(w, http.StatusOK, struct{}{})
}

// noRoute is set in the 404 of a VM without a route, and never in an answer of a guest: who asks a guest can tell a relay that is new from
// an agent that refuses.
const noRoute = "Rekindle-No-Route"

// known answers 404 for a VM without a route.
func (s *Server) known(handle func(http.ResponseWriter, *http.Request, *vm.VM)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		target := s.table.Get(r.PathValue("id"))
		if target == nil {
			w.Header().Set(noRoute, "1")
			fail(w, http.StatusNotFound, fmt.Errorf("no route for %s", r.PathValue("id")))
			return
		}
		handle(w, r, target)
	}
}

func (s *Server) putState(w http.ResponseWriter, r *http.Request, target *vm.VM) {
	var body struct {
		State vm.State `json:"state"`
	}
	if !read(w, r, &body) {
		return
	}
	if err := body.State.Check(); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	target.SetState(body.State)
	reply(w, http.StatusOK, struct{}{})
}

func (s *Server) connect(w http.ResponseWriter, r *http.Request, target *vm.VM) {
	var body struct {
		TimeoutMS int64 `json:"timeout_ms"`
	}
	if !read(w, r, &body) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(body.TimeoutMS)*time.Millisecond)
	defer cancel()
	if err := target.Connect(ctx); err != nil {
		fail(w, http.StatusBadGateway, err)
		return
	}
	if r.URL.Query().Get("ready") == "1" {
		if err := target.AwaitReady(ctx); err != nil {
			fail(w, http.StatusGatewayTimeout, err)
			return
		}
	}
	reply(w, http.StatusOK, struct{}{})
}

func (s *Server) disconnect(w http.ResponseWriter, _ *http.Request, target *vm.VM) {
	target.Disconnect()
	reply(w, http.StatusOK, struct{}{})
}

func (s *Server) list(w http.ResponseWriter, _ *http.Request) {
	listed := map[string]any{}
	for id, one := range s.table.All() {
		listed[id] = shown(one)
	}
	reply(w, http.StatusOK, listed)
}

// get says with the counters since when they count: a relay that was started anew knows of no byte before.
func (s *Server) get(w http.ResponseWriter, _ *http.Request, target *vm.VM) {
	one := shown(target)
	one["relay_started_at_ms"] = s.started.UnixMilli()
	reply(w, http.StatusOK, one)
}

func shown(one *vm.VM) map[string]any {
	route := one.Route()
	return map[string]any{
		"state":            route.State,
		"generation":       route.Generation,
		"connected":        one.Connected(),
		"last_byte_ms":     one.Meter.LastByteMS.Load(),
		"open":             one.Meter.Open.Load(),
		"parked":           one.Meter.Parked.Load(),
		"bytes_in":         one.Meter.BytesIn.Load(),
		"bytes_out":        one.Meter.BytesOut.Load(),
		"egress_bytes_in":  one.Meter.EgressIn.Load(),
		"egress_bytes_out": one.Meter.EgressOut.Load(),
	}
}

// events streams until the subscriber leaves or another one comes.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	flusher := http.NewResponseController(w)
	if err := flusher.Flush(); err != nil {
		return // the subscriber is gone
	}
	lines := json.NewEncoder(w)
	s.hub.Subscribe(r.Context(), func(batch []event.Event) error {
		for _, one := range batch {
			if err := lines.Encode(one); err != nil {
				return err
			}
		}
		return flusher.Flush()
	})
}

// read decodes a body; on failure it has answered 400 and returns false.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("body: %w", err))
		return false
	}
	return true
}

func fail(w http.ResponseWriter, status int, err error) {
	reply(w, status, map[string]string{"error": err.Error()})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		slog.Debug("control answer not delivered", "error", err)
	}
}
