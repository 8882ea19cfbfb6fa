package ingress

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"rekindle/internal/token"
	"rekindle/internal/vm"
)

// WebSocket subprotocols that carry what headers cannot: browsers set no headers on a handshake (spec §2.6).
const (
	protocolMarker    = "lambda-microvms"
	protocolAuth      = protocolMarker + ".authentication."
	protocolPort      = protocolMarker + ".port."
	headerSubprotocol = "Sec-Websocket-Protocol"
	headerExtensions  = "Sec-Websocket-Extensions"
)

// credentials is what a request says about itself, read but not judged.
type credentials struct {
	token   string
	port    string   // "" when not given
	marked  bool     // the marker subprotocol was offered
	offered []string // subprotocols that are not ours
}

// readCredentials takes the token and port from headers or, in a WebSocket handshake with our marker, from subprotocols. Headers win.
func readCredentials(r *http.Request) credentials {
	var c credentials
	var fromProtocols credentials
	if isWebSocket(r.Header) {
		fromProtocols = readSubprotocols(r.Header)
		c.marked, c.offered = fromProtocols.marked, fromProtocols.offered
	}
	c.token, c.port = r.Header.Get(headerAuth), r.Header.Get(headerPort)
	if _, given := r.Header[headerPort]; given && c.port == "" {
		c.port = "?" // given, but no number
	}
	if c.token == "" && c.marked {
		c.token = fromProtocols.token
	}
	if c.port == "" {
		c.port = fromProtocols.port
	}
	return c
}

func readSubprotocols(header http.Header) credentials {
	var c credentials
	for _, line := range header[headerSubprotocol] {
		for item := range strings.SplitSeq(line, ",") {
			item = strings.TrimSpace(item)
			switch {
			case item == protocolMarker:
				c.marked = true
			case strings.HasPrefix(item, protocolAuth):
				c.token = item[len(protocolAuth):]
			case strings.HasPrefix(item, protocolPort):
				c.port = item[len(protocolPort):]
				if c.port == "" {
					c.port = "?"
				}
			case item != "":
				c.offered = append(c.offered, item)
			}
		}
	}
	return c
}

func isWebSocket(header http.Header) bool {
	return strings.EqualFold(header.Get("Upgrade"), "websocket")
}

// authorise judges a request for a VM and returns the guest port it may reach, or what to answer. now is the wall clock.
func authorise(keys *token.Keys, c credentials, target *vm.VM, now time.Time) (int, *answer) {
	if c.token == "" {
		return 0, missingAuth
	}
	claims, err := keys.Open(c.token)
	if err != nil {
		return 0, missingAuth
	}
	if target == nil {
		return 0, failedAuth
	}
	route := target.Route()
	if claims.VM != target.ID || claims.Generation != route.Generation || now.Unix() >= claims.ExpiresAtS {
		return 0, failedAuth
	}
	if claims.Use != token.UseApp {
		return 0, notForwarded
	}
	port, ok := guestPort(c.port, route.DefaultPort)
	switch {
	case !ok:
		return 0, badPort
	case !claims.Allows(port):
		return 0, portDenied
	case !route.Ingress:
		return 0, notForwarded
	}
	return port, nil
}

// guestPort is strict: digits only, so that no two readers of a header disagree about it.
func guestPort(text string, fallback int) (int, bool) {
	if text == "" {
		return fallback, true
	}
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	port, err := strconv.Atoi(text)
	return port, err == nil && port >= 1 && port <= 65535
}
