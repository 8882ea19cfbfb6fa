package container

import (
	"embed"
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// NewsDir holds what the agent has to tell applications; they find it at NewsPath, and only the agent writes there. It is a folder, so that
// a file in it can be replaced as a whole and watched.
const (
	NewsDir  = "news"
	NewsPath = "/run/rekindle"
)

const (
	generationFile = "generation"
	counterFile    = "sysgenid" // the generation as a number of 32 bits that can be mapped
	wholeProcDir   = "proc"     // with all capabilities: a second /proc, of which nothing is covered
)

//go:embed preload
var preloads embed.FS

// Publish fills a fresh news folder: what languages can load before an application, and the generation before any thaw.
func Publish(files string) error {
	dir := filepath.Join(files, NewsDir)
	preload, err := fs.Sub(preloads, "preload")
	if err != nil {
		return err
	}
	if err := os.CopyFS(dir, preload); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, wholeProcDir), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, counterFile), make([]byte, os.Getpagesize()), 0o644); err != nil {
		return err
	}
	return Generation{}.Tell(files)
}

// Generation is what an application can know of its thaws: the file /run/rekindle/generation.
type Generation struct {
	Generation int64 `json:"generation"` // how often this memory has been thawed; 0: never
	First      bool  `json:"first"`      // the last thaw was the first of a new clone
	ThawedAtMS int64 `json:"thawed_at_ms"`
	// How far the wall clock was moved at that thaw, and at all so far: what CLOCK_MONOTONIC and CLOCK_BOOTTIME did not count.
	GapMS      int64 `json:"gap_ms"`
	TotalGapMS int64 `json:"total_gap_ms"`
}

// Tell sets the counter and replaces the file that applications read; a reader sees the old text or the new one.
func (g Generation) Tell(files string) error {
	text, err := json.Marshal(g)
	if err != nil {
		return err
	}
	dir := filepath.Join(files, NewsDir)
	if err := setCounter(filepath.Join(dir, counterFile), uint32(g.Generation)); err != nil {
		return err
	}
	path := filepath.Join(dir, generationFile)
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// setCounter writes in place: applications have the page mapped.
func setCounter(path string, value uint32) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteAt(binary.NativeEndian.AppendUint32(nil, value), 0)
	return err
}

// Next is what follows at a thaw that moved the wall clock by gap.
func (g Generation) Next(first bool, now time.Time, gap time.Duration) Generation {
	return Generation{
		Generation: g.Generation + 1, First: first, ThawedAtMS: now.UnixMilli(),
		GapMS: gap.Milliseconds(), TotalGapMS: g.TotalGapMS + gap.Milliseconds(),
	}
}
