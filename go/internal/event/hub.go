// Package event carries what the relay has to tell `rekindle serve`: one subscriber at a time, nothing lost between two of them.
package event

import (
	"context"
	"sync"
)

// The kinds of events.
const (
	Wake        = "wake"         // a request waits for a suspended VM
	ChannelLost = "channel_lost" // the peer closed the channel
)

// Event is one line of the stream.
type Event struct {
	Type string `json:"type"`
	VM   string `json:"vm"`
}

// Hub keeps what was not delivered yet, each event once: so it is bounded by the number of VMs.
type Hub struct {
	mu         sync.Mutex
	pending    []Event
	arrived    chan struct{} // closed when pending stops being empty
	superseded chan struct{} // closed when a newer subscriber comes
}

// NewHub makes an empty hub.
func NewHub() *Hub {
	return &Hub{arrived: make(chan struct{}), superseded: make(chan struct{})}
}

// Emit adds an event unless the same one waits already. It never blocks.
func (h *Hub) Emit(kind, vm string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	added := Event{kind, vm}
	for _, waiting := range h.pending {
		if waiting == added {
			return
		}
	}
	h.pending = append(h.pending, added)
	if len(h.pending) == 1 {
		close(h.arrived)
	}
}

// Forget drops what waits for delivery about a VM: it is out of date.
func (h *Hub) Forget(vm string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := h.pending[:0]
	for _, waiting := range h.pending {
		if waiting.VM != vm {
			kept = append(kept, waiting)
		}
	}
	if len(kept) == 0 && len(h.pending) > 0 {
		h.arrived = make(chan struct{})
	}
	h.pending = kept
}

// Subscribe hands every event to deliver, in order, until ctx ends, deliver fails or another subscriber comes. Events that deliver has
// failed on wait for the next subscriber.
func (h *Hub) Subscribe(ctx context.Context, deliver func([]Event) error) {
	superseded := h.takeOver()
	for {
		select {
		case <-ctx.Done():
			return
		case <-superseded:
			return
		case <-h.arrival():
		}
		batch := h.take()
		if err := deliver(batch); err != nil {
			h.putBack(batch)
			return
		}
	}
}

func (h *Hub) takeOver() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.superseded)
	h.superseded = make(chan struct{})
	return h.superseded
}

func (h *Hub) arrival() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.arrived
}

func (h *Hub) take() []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	batch := h.pending
	if len(batch) > 0 {
		h.pending, h.arrived = nil, make(chan struct{})
	}
	return batch
}

func (h *Hub) putBack(batch []Event) {
	for _, undelivered := range batch {
		h.Emit(undelivered.Type, undelivered.VM)
	}
}
