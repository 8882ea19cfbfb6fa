// Package vm is what the relay knows of each microVM: its route, its state, its guest channel and its meter.
package vm

import (
	"fmt"
	"path/filepath"

	"rekindle/internal/quiet"
)

// State says what happens to requests (docs/contracts.md §4).
type State string

const (
	Held      State = "held"      // starting, waking or going to sleep: requests wait
	Running   State = "running"   // requests are forwarded
	Suspended State = "suspended" // requests wake the VM and wait, or fail
	Gone      State = "gone"      // requests fail
)

// EgressInternet is the egress of a VM that may reach public addresses; with EgressNone it reaches nothing.
const (
	EgressInternet = "internet"
	EgressNone     = "none"
)

// Route is what serve says about a VM. It is a value: a new one replaces the old as a whole.
type Route struct {
	Generation   int64       `json:"generation"`
	State        State       `json:"state"`
	EndpointPort int         `json:"endpoint_port"` // 0: no endpoint, for guests that are baked
	EndpointHost string      `json:"endpoint_host"`
	DefaultPort  int         `json:"default_port"`
	AutoResume   bool        `json:"auto_resume"`
	In           string      `json:"in"`
	Out          string      `json:"out"`
	Egress       string      `json:"egress"`
	Ingress      bool        `json:"ingress"`
	Quiet        quiet.Rules `json:"quiet"`
}

// Check returns what is wrong with a route, by field and rule.
func (r *Route) Check() error {
	if err := r.State.Check(); err != nil {
		return err
	}
	switch {
	case r.EndpointPort < 0 || r.EndpointPort > 65535:
		return fmt.Errorf("endpoint_port must be 1 to 65535, or 0 for no endpoint, not %d", r.EndpointPort)
	case r.DefaultPort < 1 || r.DefaultPort > 65535:
		return fmt.Errorf("default_port must be 1 to 65535, not %d", r.DefaultPort)
	case r.Egress != EgressInternet && r.Egress != EgressNone:
		return fmt.Errorf("egress must be internet or none, not %q", r.Egress)
	case !filepath.IsAbs(r.In):
		return fmt.Errorf("in must be an absolute path, not %q", r.In)
	case r.Egress == EgressInternet && !filepath.IsAbs(r.Out):
		return fmt.Errorf("out must be an absolute path, not %q", r.Out)
	}
	return r.Quiet.Check()
}

// Check returns an error for a state that does not exist.
func (s State) Check() error {
	switch s {
	case Held, Running, Suspended, Gone:
		return nil
	}
	return fmt.Errorf("state must be held, running, suspended or gone, not %q", s)
}
