// Package quiet tells which requests are no activity: what a page left open sends without anybody at it (docs/quiet.md).
package quiet

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Effect is what a rule does with a request.
type Effect string

const (
	Counts Effect = ""       // no rule: activity, and it wakes
	Ignore Effect = "ignore" // no activity; while the VM sleeps it is refused
	Wake   Effect = "wake"   // no activity, but it wakes
	Park   Effect = "park"   // a WebSocket that outlives sleep: only messages are activity and wake; opening one is as Wake
	Listen Effect = "listen" // as Park, but what the app says is no activity, and may be lost in a sleep
)

// Parks tells whether a rule with this effect is about WebSockets that outlive sleep.
func (e Effect) Parks() bool { return e == Park || e == Listen }

// WebSocket stands for the method of a handshake: no other rule than one that names it is about handshakes.
const WebSocket = "WEBSOCKET"

// Bounds of what serve may say, and of what is looked at in a request: a longer one counts.
const (
	maxRules   = 128
	maxPattern = 256
	maxMethods = 16
	maxTarget  = 4096
)

// Rule is one rule as it stands in a route.
type Rule struct {
	Effect  Effect   `json:"effect"`
	Methods []string `json:"methods"` // none: every method but WebSocket
	Path    string   `json:"path"`
	Query   string   `json:"query"`  // "": any
	Status  int      `json:"status"` // what a refused request is answered with
}

// Rules of one VM; the first that matches is the one. It is immutable.
type Rules []Rule

// Check returns what is wrong with the rules, by field and rule.
func (rules Rules) Check() error {
	if len(rules) > maxRules {
		return fmt.Errorf("quiet must have at most %d rules, not %d", maxRules, len(rules))
	}
	for i := range rules {
		if err := rules[i].check(); err != nil {
			return fmt.Errorf("quiet[%d]: %w", i, err)
		}
	}
	return nil
}

func (r *Rule) check() error {
	handshakes := len(r.Methods) == 1 && r.Methods[0] == WebSocket
	switch {
	case r.Effect != Ignore && r.Effect != Wake && !r.Effect.Parks():
		return fmt.Errorf("effect must be ignore, wake, park or listen, not %q", r.Effect)
	case r.Effect.Parks() && !handshakes:
		return fmt.Errorf("methods of a %s rule must be %s alone", r.Effect, WebSocket)
	case len(r.Methods) > maxMethods:
		return fmt.Errorf("methods must be at most %d", maxMethods)
	case !strings.HasPrefix(r.Path, "/") || len(r.Path) > maxPattern:
		return fmt.Errorf("path must begin with / and have at most %d bytes", maxPattern)
	case len(r.Query) > maxPattern || strings.Count(r.Query, "*") > 1:
		return fmt.Errorf("query must have at most %d bytes and one *", maxPattern)
	case r.Effect == Ignore && (r.Status < 400 || r.Status > 599):
		return fmt.Errorf("status must be 400 to 599, not %d", r.Status)
	}
	segments := strings.Split(r.Path, "/")
	for i, segment := range segments {
		if segment == "**" && i == len(segments)-1 {
			continue
		}
		if strings.Count(segment, "*") > 1 {
			return fmt.Errorf("path must have at most one * between two slashes, or ** as its end, not %q", r.Path)
		}
	}
	return nil
}

// Find returns the rule about a request, or nil. It reads path and query as the client has written them, so that one that is spelt
// in another way counts. It takes time linear in their length.
func (rules Rules) Find(r *http.Request, handshake bool) *Rule {
	if len(rules) == 0 {
		return nil
	}
	method, path, query := r.Method, r.URL.EscapedPath(), r.URL.RawQuery
	if len(path)+len(query) > maxTarget {
		return nil
	}
	if handshake {
		method = WebSocket
	}
	for i := range rules {
		rule := &rules[i]
		if rule.about(method) && matchPath(rule.Path, path) && (rule.Query == "" || matchStar(rule.Query, query)) {
			return rule
		}
	}
	return nil
}

func (r *Rule) about(method string) bool {
	if len(r.Methods) == 0 {
		return method != WebSocket
	}
	return slices.Contains(r.Methods, method)
}

// matchPath: * stands for what is between two slashes or a part of it, ** at the end for any number of segments, none included.
func matchPath(pattern, path string) bool {
	for {
		if pattern == "**" {
			return true
		}
		wanted, restWanted, moreWanted := strings.Cut(pattern, "/")
		got, rest, more := strings.Cut(path, "/")
		if !matchStar(wanted, got) {
			return false
		}
		if !moreWanted || !more {
			return moreWanted == more || restWanted == "**"
		}
		pattern, path = restWanted, rest
	}
}

// matchStar compares with a text that has one * at most.
func matchStar(pattern, text string) bool {
	before, after, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == text
	}
	return len(text) >= len(before)+len(after) && strings.HasPrefix(text, before) && strings.HasSuffix(text, after)
}
