package local

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"rekindle/internal/tunnel"
)

// Address is where the API is. Nothing else at this address exists: what is no request for the API meets a reset.
var Address = netip.MustParseAddrPort("169.254.169.254:80")

const (
	prefix = "/rekindle/"
	// Header must be in every request. A page or a server that an attacker makes fetch a URL cannot set it (as in IMDSv2).
	Header = "X-Rekindle-Guest"

	patience     = 5 * time.Second // for a whole request, and for its answer to be taken
	maxRequest   = 16 << 10
	maxBody      = 4 << 10
	maxNameRunes = 64
)

// Serve answers one request and closes the connection.
func (d *Desk) Serve(conn net.Conn) {
	conn.SetDeadline(time.Now().Add(patience)) // fails only on a closed connection
	request, err := http.ReadRequest(bufio.NewReader(io.LimitReader(conn, maxRequest)))
	if err != nil || !strings.HasPrefix(request.URL.Path, prefix) {
		tunnel.Reset(conn)
		return
	}
	status, answer := d.answer(request)
	body, err := json.Marshal(answer)
	if err != nil {
		tunnel.Reset(conn)
		return
	}
	response := http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Close: true, Request: request,
		Header:        http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-store"}},
		ContentLength: int64(len(body)) + 1,
		Body:          io.NopCloser(bytes.NewReader(append(body, '\n'))),
	}
	response.Write(conn) // a client that is gone needs no answer
	request.Body.Close() // reads the rest: to close over unread bytes would be a reset
	conn.Close()
	if status == http.StatusAccepted {
		d.askForSleep() // after the answer: the freeze breaks every connection
	}
}

type refusal struct {
	Error string `json:"error"`
}

func refuse(status int, format string, args ...any) (int, any) {
	return status, refusal{fmt.Sprintf(format, args...)}
}

func (d *Desk) answer(r *http.Request) (int, any) {
	if why := forged(r); why != "" {
		return refuse(http.StatusForbidden, "%s", why)
	}
	allowed := map[string][]string{
		"/rekindle/v1/":        {http.MethodGet},
		"/rekindle/v1/lease":   {http.MethodPut, http.MethodDelete},
		"/rekindle/v1/suspend": {http.MethodPost},
	}
	path := r.URL.Path
	if path == "/rekindle/v1" {
		path += "/"
	}
	methods, known := allowed[path]
	if !known {
		return refuse(http.StatusNotFound, "there is GET /rekindle/v1/, PUT and DELETE /rekindle/v1/lease, POST /rekindle/v1/suspend")
	}
	switch key := r.Method + " " + strings.TrimPrefix(path, "/rekindle/v1/"); key {
	case "GET ":
		return http.StatusOK, d.state()
	case "PUT lease":
		return d.putLease(r.Body)
	case "DELETE lease":
		d.release()
		return http.StatusOK, d.state()
	case "POST suspend":
		return d.postSuspend()
	}
	return refuse(http.StatusMethodNotAllowed, "%s is served for %s only", path, strings.Join(methods, " and "))
}

// forged says why a request may come from elsewhere than from a program that means it.
func forged(r *http.Request) string {
	if r.Header.Get(Header) == "" {
		return "the header " + Header + " is missing"
	}
	for _, name := range []string{"X-Forwarded-For", "Forwarded", "Via", "Origin"} {
		if len(r.Header.Values(name)) > 0 {
			return "a request that was passed on or made by a page is not served: it has the header " + name
		}
	}
	if host := strings.TrimSuffix(r.Host, ":80"); host != Address.Addr().String() {
		return "the host must be " + Address.Addr().String()
	}
	return ""
}

type state struct {
	MicrovmID *string         `json:"microvm_id"`
	Revision  *int64          `json:"revision"`
	EndsAtMS  *int64          `json:"ends_at_ms"`
	Idle      json.RawMessage `json:"idle"`
	LeaseMaxS *int            `json:"lease_max_seconds"`
	Lease     *leaseState     `json:"lease"`
	Suspend   bool            `json:"suspend_asked"`
}

type leaseState struct {
	SecondsLeft float64 `json:"seconds_left"`
	Name        string  `json:"name"`
}

func (d *Desk) state() state {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := state{Suspend: d.suspend}
	if d.about != nil {
		now.MicrovmID, now.Revision, now.EndsAtMS = &d.about.MicrovmID, &d.about.Revision, &d.about.EndsAtMS
		now.Idle, now.LeaseMaxS = d.about.Idle, &d.about.LeaseMaxS
	}
	if lease := d.lease(); lease != nil {
		now.Lease = &leaseState{float64(lease.LeftMS) / 1000, lease.Name}
	}
	return now
}

func (d *Desk) known() *About {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.about
}

const noHost = "this machine is not a microVM yet: there is nobody to ask"

func (d *Desk) putLease(body io.Reader) (int, any) {
	about := d.known()
	if about == nil {
		return refuse(http.StatusConflict, noHost)
	}
	var asked struct {
		Seconds *int   `json:"seconds"`
		Name    string `json:"name"`
	}
	if err := decode(body, &asked); err != nil {
		return refuse(http.StatusBadRequest, "the body must be {\"seconds\": n, \"name\": \"...\"}: %v", err)
	}
	switch {
	case about.LeaseMaxS <= 0:
		return refuse(http.StatusForbidden, "the operator of this machine gives no leases")
	case asked.Seconds == nil || *asked.Seconds < 1 || *asked.Seconds > about.LeaseMaxS:
		return refuse(http.StatusBadRequest, "seconds must be a number from 1 to %d", about.LeaseMaxS)
	case !isName(asked.Name):
		return refuse(http.StatusBadRequest, "name must be at most %d printable characters", maxNameRunes)
	}
	d.take(*asked.Seconds, asked.Name)
	return http.StatusOK, d.state()
}

func (d *Desk) postSuspend() (int, any) {
	if d.known() == nil {
		return refuse(http.StatusConflict, noHost)
	}
	return http.StatusAccepted, struct {
		Suspend string `json:"suspend"`
	}{"asked"}
}

func decode(body io.Reader, into any) error {
	data, err := io.ReadAll(io.LimitReader(body, maxBody+1))
	if err != nil {
		return err
	}
	if len(data) > maxBody {
		return fmt.Errorf("more than %d bytes", maxBody)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if decoder.More() {
		return errors.New("more than one value")
	}
	return nil
}

func isName(name string) bool {
	if !utf8.ValidString(name) || utf8.RuneCountInString(name) > maxNameRunes {
		return false
	}
	return strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
