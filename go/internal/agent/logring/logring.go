// Package logring keeps the last bytes of an endless output.
package logring

import "sync"

// Ring holds the newest bytes that were written to it. It is an io.Writer that never fails and never waits.
type Ring struct {
	mu   sync.Mutex
	data []byte
	end  int64 // how many bytes were ever written
}

// New makes a ring of a size in bytes.
func New(size int) *Ring { return &Ring{data: make([]byte, size)} }

// Write appends p and forgets the oldest bytes.
func (r *Ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	written := len(p)
	if extra := len(p) - len(r.data); extra > 0 {
		r.end += int64(extra)
		p = p[extra:]
	}
	for len(p) > 0 {
		n := copy(r.data[r.end%int64(len(r.data)):], p)
		r.end += int64(n)
		p = p[n:]
	}
	return written, nil
}

// From returns a copy of the bytes from offset on, counted from the first byte ever written, with the offsets of its first byte and of the
// byte after its last. An offset whose bytes are forgotten counts as that of the oldest byte; one that is still to come as the end.
func (r *Ring) From(offset int64) (data []byte, start, end int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := max(0, r.end-int64(len(r.data)))
	start = min(max(offset, oldest), r.end)
	data = make([]byte, 0, r.end-start)
	for at := start; at < r.end; at = start + int64(len(data)) {
		from := at % int64(len(r.data))
		until := min(from+r.end-at, int64(len(r.data)))
		data = append(data, r.data[from:until]...)
	}
	return data, start, r.end
}
