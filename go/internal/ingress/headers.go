package ingress

import (
	"net/http"
	"net/textproto"
	"strings"
)

// hopByHop headers are between two neighbours (RFC 9110 §7.6.1); the rest passes untouched.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// upgradeType is the protocol that a message switches to, or "". HTTP/2 by upgrade is none: further requests would pass unchecked in
// it, and RFC 9113 §3.1 has taken it back.
func upgradeType(header http.Header) string {
	protocol := header.Get("Upgrade")
	if !hasToken(header["Connection"], "upgrade") || strings.EqualFold(protocol, "h2c") {
		return ""
	}
	return protocol
}

func hasToken(lines []string, want string) bool {
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(textproto.TrimString(item), want) {
				return true
			}
		}
	}
	return false
}

func dropHopByHop(header http.Header) {
	for _, line := range header["Connection"] {
		for item := range strings.SplitSeq(line, ",") {
			if name := textproto.TrimString(item); name != "" {
				header.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(header, name)
	}
}

// dropOurs takes out everything between clients and this proxy, known or not.
func dropOurs(header http.Header) {
	for name := range header {
		if strings.HasPrefix(name, headerPrefix) {
			delete(header, name)
		}
	}
}

// requestHeader is what the app gets to see of a client's headers.
func requestHeader(in http.Header, requestID string) http.Header {
	out := in.Clone()
	upgrade, trailers := upgradeType(in), hasToken(in["Te"], "trailers")
	dropHopByHop(out)
	dropOurs(out)
	if trailers {
		out.Set("Te", "trailers")
	}
	if upgrade != "" {
		out.Set("Connection", "Upgrade")
		out.Set("Upgrade", upgrade)
	}
	if _, given := out["User-Agent"]; !given {
		out["User-Agent"] = nil // else the transport would name itself
	}
	out.Set(headerRequestID, requestID)
	return out
}

// copyResponseHeader makes the app's headers the client's. Nothing is added that the app did not send, but the request's id.
func copyResponseHeader(to, from http.Header, requestID string) {
	dropHopByHop(from)
	dropOurs(from)
	for name, values := range from {
		to[name] = values
	}
	for _, guessed := range []string{"Date", "Content-Type"} {
		if _, given := to[guessed]; !given {
			to[guessed] = nil // else net/http would add one
		}
	}
	to.Set(headerRequestID, requestID)
}
