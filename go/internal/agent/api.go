package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"rekindle/internal/agent/boot"
	"rekindle/internal/agent/container"
	"rekindle/internal/agent/hook"
	"rekindle/internal/channel"
	"rekindle/internal/tunnel"
)

// handler serves the in port.
func (a *Agent) handler() http.Handler {
	api := http.NewServeMux()
	api.HandleFunc("GET /v1/status", a.status)
	api.HandleFunc("POST /v1/start", a.unlessFrozen(a.start))
	api.HandleFunc("POST /v1/hook", a.unlessFrozen(a.callHook))
	api.HandleFunc("POST /v1/freeze", a.freeze)
	api.HandleFunc("POST /v1/thaw", a.thaw)
	api.HandleFunc("GET /v1/wait", a.wait)
	api.HandleFunc("GET /v1/wishes", a.wishes)
	api.HandleFunc("GET /v1/logs", a.logs)
	api.HandleFunc("POST /v1/poweroff", a.stop)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			a.connect(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}

func (a *Agent) unlessFrozen(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if a.frozen.Load() {
			fail(w, http.StatusConflict, errors.New("the guest is frozen: thaw it first"))
			return
		}
		next(w, r)
	}
}

// reply sends an answer in one piece.
func reply(w http.ResponseWriter, status int, answer any) {
	body, err := json.Marshal(answer)
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	send(w, status, body)
}

func send(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body) // a relay that is gone needs no answer
}

func fail(w http.ResponseWriter, status int, err error) {
	reply(w, status, map[string]string{"error": err.Error()})
}

// maxRequest bounds the body of a request; environment and hook payloads fit.
const maxRequest = 1 << 20

// decode reads a request's body and answers the request itself when that is impossible.
func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("request body: %w", err))
		return false
	}
	return true
}

// dialTimeout is for a connection within the guest.
const dialTimeout = 5 * time.Second

// connect opens a tunnel to a port of the application.
func (a *Agent) connect(w http.ResponseWriter, r *http.Request) {
	if !isLoopback(r.Host) || a.frozen.Load() {
		tunnel.Refuse(w, tunnel.ReasonDenied)
		return
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		tunnel.Refuse(w, reasonFor(err))
		return
	}
	if !a.inbound.Add(conn) {
		tunnel.Reset(conn)
		tunnel.Refuse(w, tunnel.ReasonUnreachable)
		return
	}
	defer a.inbound.Remove(conn)
	open, err := tunnel.Accept(w, r)
	if err != nil {
		tunnel.Reset(conn)
		return
	}
	tunnel.Splice(open, conn.(*net.TCPConn))
}

func isLoopback(authority string) bool {
	host, _, err := net.SplitHostPort(authority)
	ip := net.ParseIP(host)
	return err == nil && ip != nil && ip.IsLoopback()
}

func reasonFor(err error) tunnel.Reason {
	var network net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return tunnel.ReasonRefused
	case errors.As(err, &network) && network.Timeout():
		return tunnel.ReasonTimeout
	default:
		return tunnel.ReasonUnreachable
	}
}

type appStatus struct {
	State    string `json:"state"`
	ExitCode *int   `json:"exit_code"`
	OOMKills int    `json:"oom_kills"`
}

func (a *Agent) status(w http.ResponseWriter, r *http.Request) {
	memory, err := boot.ReadMemory()
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	listeners, err := boot.ReadListeners()
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	reply(w, http.StatusOK, struct {
		Version   string      `json:"version"`
		Booted    bool        `json:"booted"`
		App       appStatus   `json:"app"`
		Listening []int       `json:"listening"`
		Memory    boot.Memory `json:"memory"`
	}{a.version, true, a.appStatus(), listeners.Ports(a.own), memory})
}

func (a *Agent) application() *container.Container {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.app
}

func (a *Agent) appStatus() appStatus {
	app := a.application()
	if app == nil {
		return appStatus{State: "none"}
	}
	select {
	case <-app.Ended():
		exit := app.Exit()
		return appStatus{"exited", &exit.Code, exit.OOMKills}
	default:
		return appStatus{State: "running", OOMKills: container.OOMKills()}
	}
}

func (a *Agent) start(w http.ResponseWriter, r *http.Request) {
	var spec container.Spec
	if !decode(w, r, &spec) {
		return
	}
	err := a.startApp(spec)
	var exec *container.ExecError
	switch {
	case err == nil:
		reply(w, http.StatusOK, struct{}{})
	case errors.As(err, &exec):
		fail(w, http.StatusUnprocessableEntity, err)
	case errors.Is(err, errRunning):
		fail(w, http.StatusConflict, err)
	default:
		fail(w, http.StatusInternalServerError, err)
	}
}

var errRunning = errors.New("the application has been started already")

func (a *Agent) startApp(spec container.Spec) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.app != nil {
		return errRunning
	}
	if spec.Hostname == "" {
		spec.Hostname = "localhost"
	}
	spec.Root, spec.Files = boot.Rootfs, boot.Files
	if err := container.WriteFiles(boot.Files, container.Identity{Hostname: spec.Hostname}); err != nil {
		return err
	}
	app, err := container.Start(spec, a.reaper, a.outputPipe)
	if err != nil {
		return err
	}
	a.app = app
	return nil
}

func (a *Agent) callHook(w http.ResponseWriter, r *http.Request) {
	var call hook.Hook
	if decode(w, r, &call) {
		reply(w, http.StatusOK, call.Call(r.Context()))
	}
}

func (a *Agent) wait(w http.ResponseWriter, r *http.Request) {
	app := a.application()
	if app == nil {
		fail(w, http.StatusConflict, errors.New("no application has been started"))
		return
	}
	news, err := a.newsAfter(r.URL.Query().Get("news"))
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	select {
	case <-app.Ended():
		reply(w, http.StatusOK, app.Exit())
	case <-news:
		reply(w, http.StatusOK, a.desk.Wishes())
	case <-r.Context().Done():
	}
}

func (a *Agent) logs(w http.ResponseWriter, r *http.Request) {
	offset := int64(0)
	if text := r.URL.Query().Get("offset"); text != "" {
		var err error
		if offset, err = strconv.ParseInt(text, 10, 64); err != nil {
			fail(w, http.StatusBadRequest, fmt.Errorf("offset: %w", err))
			return
		}
	}
	data, start, end := a.output.From(offset)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Rekindle-Log-Start", strconv.FormatInt(start, 10))
	w.Header().Set("Rekindle-Log-End", strconv.FormatInt(end, 10))
	w.Write(data) // a relay that is gone needs no answer
}

// farewellTimeout is how long the answer to a power-off may take to get out.
const farewellTimeout = time.Second

// stop answers, ends the session and switches the machine off, whether the answer got out or not.
func (a *Agent) stop(w http.ResponseWriter, r *http.Request) {
	session := sessionOf(r)
	body := []byte(`{"power":"off"}`)
	session.CloseAfter(body)
	go func() {
		select {
		case <-session.Done():
		case <-time.After(farewellTimeout):
		}
		a.powerOff()
	}()
	send(w, http.StatusAccepted, body)
}

// sessionOf is the session that a request came by.
func sessionOf(r *http.Request) *channel.Session {
	return r.Context().Value(sessionKey{}).(*channel.Session)
}
