package vm

import (
	"maps"
	"net/http"
	"sync"

	"rekindle/internal/event"
)

// Table holds all VMs by id.
type Table struct {
	hub     *event.Hub
	outside func(*Meter) http.Handler
	mu      sync.RWMutex
	byID    map[string]*VM
}

// NewTable makes an empty table; outside makes the handler of each VM's *out* port.
func NewTable(hub *event.Hub, outside func(*Meter) http.Handler) *Table {
	return &Table{hub: hub, outside: outside, byID: map[string]*VM{}}
}

// Get returns a VM, or nil.
func (t *Table) Get(id string) *VM {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[id]
}

// Prepare returns the VM of that id, or a new one that is not in the table yet.
func (t *Table) Prepare(id string, route Route) *VM {
	if v := t.Get(id); v != nil {
		return v
	}
	return newVM(id, route, t.hub, t.outside)
}

// Put adds a VM.
func (t *Table) Put(v *VM) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byID[v.ID] = v
}

// Delete takes a VM out: requests that wait for it fail, its channel is closed. It returns nil when there was none.
func (t *Table) Delete(id string) *VM {
	t.mu.Lock()
	v := t.byID[id]
	delete(t.byID, id)
	t.mu.Unlock()
	if v != nil {
		v.SetState(Gone)
		v.Disconnect()
		t.hub.Forget(id)
	}
	return v
}

// All returns the VMs as they are now.
func (t *Table) All() map[string]*VM {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return maps.Clone(t.byID)
}
