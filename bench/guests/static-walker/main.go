// The soak's guest as one static binary: bench/guests/walker/walker.py says what it does; the bytes are the same.
package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
)

const (
	page         = 4096
	fadvDontNeed = 4
)

// plan: pages at the beginning, pages that each step adds, the most there may be, pages rewritten by each step.
type plan struct {
	kind                       string
	first, more, most, touched int
}

var (
	memoryPlan = plan{"memory", 1024, 32, 2048, 64}
	diskPlan   = plan{"disk", 256, 16, 768, 16}
)

func (p plan) size(step int) int { return min(p.first+step*p.more, p.most) }

func (p plan) written(seed string, step int) map[int]bool {
	pages := map[int]bool{}
	from, size := 0, p.size(step)
	if step > 0 {
		from = p.size(step - 1)
		for number := range p.touched {
			sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d/pick/%d", seed, p.kind, step, number))
			pages[int(binary.BigEndian.Uint64(sum[:8])%uint64(size))] = true
		}
	}
	for number := from; number < size; number++ {
		pages[number] = true
	}
	return pages
}

func (p plan) page(seed string, step, number int) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d/%d", seed, p.kind, step, number))
	return bytes.Repeat(sum[:], page/len(sum))
}

type walker struct {
	seed    string
	counter int
	memory  []byte
	disk    *os.File
}

func begin(seed string) (*walker, error) {
	disk, err := os.Create(cmp.Or(os.Getenv("WALK"), "/walk"))
	if err != nil {
		return nil, err
	}
	// All that it will ever be, at once: growing would need twice as much for a moment, and the guest is small.
	made := &walker{seed: seed, disk: disk, memory: make([]byte, 0, memoryPlan.most*page)}
	return made, made.write(0)
}

func (w *walker) write(step int) error {
	if missing := memoryPlan.size(step)*page - len(w.memory); missing > 0 {
		w.memory = append(w.memory, make([]byte, missing)...)
	}
	for number := range memoryPlan.written(w.seed, step) {
		copy(w.memory[number*page:], memoryPlan.page(w.seed, step, number))
	}
	for number := range diskPlan.written(w.seed, step) {
		if _, err := w.disk.WriteAt(diskPlan.page(w.seed, step, number), int64(number)*page); err != nil {
			return err
		}
	}
	return w.disk.Sync()
}

func (w *walker) step(to int) error {
	if to != w.counter+1 {
		return nil
	}
	if err := w.write(to); err != nil {
		return err
	}
	w.counter = to
	return nil
}

type sums struct {
	Counter int    `json:"counter"`
	Memory  string `json:"memory"`
	Disk    string `json:"disk"`
}

// sums reads the disk, not the page cache, which is memory.
func (w *walker) sums() (sums, error) {
	if _, _, errno := syscall.Syscall6(syscall.SYS_FADVISE64, w.disk.Fd(), 0, 0, fadvDontNeed, 0, 0); errno != 0 {
		return sums{}, errno
	}
	ofDisk := sha256.New()
	if _, err := io.Copy(ofDisk, io.NewSectionReader(w.disk, 0, 1<<40)); err != nil {
		return sums{}, err
	}
	ofMemory := sha256.Sum256(w.memory)
	return sums{w.counter, hex.EncodeToString(ofMemory[:]), hex.EncodeToString(ofDisk.Sum(nil))}, nil
}

// server has a walker once it was begun.
type server struct {
	lock   sync.Mutex
	walker *walker
}

func (s *server) begin(w http.ResponseWriter, r *http.Request) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.walker == nil {
		made, err := begin(r.URL.Query().Get("seed"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.walker = made
	}
	s.answer(w, 0)
}

// answer makes the step `to`, if that is the next one, and says where the walker stands.
func (s *server) answer(w http.ResponseWriter, to int) {
	if s.walker == nil {
		http.Error(w, "not begun", http.StatusConflict)
		return
	}
	err := s.walker.step(to)
	found, failure := s.walker.sums()
	if err == nil {
		err = failure
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if err := json.NewEncoder(w).Encode(found); err != nil {
		log.Print(err)
	}
}

func (s *server) step(w http.ResponseWriter, r *http.Request) {
	to, err := strconv.Atoi(r.URL.Query().Get("to"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	s.answer(w, to)
}

func (s *server) state(w http.ResponseWriter, _ *http.Request) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.answer(w, 0)
}

func main() {
	served := &server{}
	http.HandleFunc("POST /begin", served.begin)
	http.HandleFunc("POST /step", served.step)
	http.HandleFunc("GET /state", served.state)
	http.HandleFunc("POST /aws/lambda-microvms/runtime/v1/{hook}", func(http.ResponseWriter, *http.Request) {})
	log.Fatal(http.ListenAndServe(os.Getenv("LISTEN")+":"+cmp.Or(os.Getenv("PORT"), "8080"), nil))
}
