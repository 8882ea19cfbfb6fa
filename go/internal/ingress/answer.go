// Package ingress serves the HTTPS endpoints of microVMs: it checks tokens, waits for VMs, and forwards requests to apps
// without leaving a trace in them (spec/aws-lambda-microvms.md §2; the check order of §12).
package ingress

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"

	"rekindle/internal/tunnel"
	"rekindle/internal/vm"
)

const (
	headerPrefix    = "X-Aws-Proxy-"
	headerAuth      = headerPrefix + "Auth"
	headerPort      = headerPrefix + "Port"
	headerForceH2   = headerPrefix + "Force-H2"
	headerError     = headerPrefix + "Error"
	headerRequestID = "X-Amzn-Requestid"

	retryAfterS = "30" // what a quiet request is told while its VM sleeps
)

// answer is what a client gets instead of the app's answer (spec §2.4).
type answer struct {
	status int
	body   string
	code   string // x-aws-proxy-error; "" leaves it out
	later  bool   // says when to ask again
}

var (
	missingAuth     = &answer{status: http.StatusForbidden, body: "Request missing authentication", code: "UNAUTHORIZED"}
	failedAuth      = &answer{status: http.StatusForbidden, body: "Token authentication failed", code: "UNAUTHORIZED"}
	portDenied      = &answer{status: http.StatusForbidden, body: "Access to port denied"}
	badPort         = &answer{status: http.StatusBadRequest}
	tooMany         = &answer{status: http.StatusTooManyRequests}
	appUnreachable  = &answer{status: http.StatusBadGateway, code: "APP_CONNECT_FAILED"}
	vmUnreachable   = &answer{status: http.StatusBadGateway, code: "MICROVM_CONNECT_FAILED"}
	notForwarded    = &answer{status: http.StatusBadGateway} // suspended for good, not ready in time, not for apps, no HTTP from the app
	internalFailure = &answer{status: http.StatusInternalServerError}
)

func (a *answer) write(w http.ResponseWriter, requestID string) {
	header := w.Header()
	header.Set(headerRequestID, requestID)
	header.Set("Cache-Control", "private, no-store")
	header.Set("Content-Length", strconv.Itoa(len(a.body)))
	header["Content-Type"] = nil // else a body's would be guessed
	if a.body != "" {
		header.Set("Content-Type", "text/plain")
	}
	if a.code != "" {
		header.Set(headerError, a.code)
	}
	if a.later {
		header.Set("Retry-After", retryAfterS)
	}
	w.WriteHeader(a.status)
	w.Write([]byte(a.body)) // fails when the client is gone
}

// asleep is what a quiet request hears while its VM sleeps (docs/quiet.md).
func asleep(status int) *answer {
	return &answer{status: status, body: "The microVM is suspended, and this request does not wake it", later: true}
}

// answerFor tells what a client hears of a failure before the app has answered.
func (e *exchange) answerFor(err error) *answer {
	var refused *tunnel.Refused
	switch {
	case errors.Is(err, vm.ErrQuiet):
		return asleep(e.rule.Status)
	case errors.Is(err, vm.ErrGone):
		return vmUnreachable
	case errors.Is(err, vm.ErrCrowded):
		return tooMany
	case errors.As(err, &refused):
		return appUnreachable
	}
	return notForwarded
}

// newRequestID is a random UUID.
func newRequestID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	var text [36]byte
	at := 0
	for i, part := range [][]byte{b[:4], b[4:6], b[6:8], b[8:10], b[10:]} {
		if i > 0 {
			text[at] = '-'
			at++
		}
		at += hex.Encode(text[at:], part)
	}
	return string(text[:])
}
