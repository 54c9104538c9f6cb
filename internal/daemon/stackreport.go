package daemon

import (
	"bytes"
	"log/slog"
	"runtime"
	"sync"
)

// A stackReport logs where a process is stuck, while it can still be seen: what
// restarts it destroys the evidence.
type stackReport struct {
	log *slog.Logger

	mu    sync.Mutex
	stuck bool
}

// note takes what is stuck, or nil. Where is logged once.
func (a *stackReport) note(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil && !a.stuck:
		a.log.Error("loop does not respond; the process is restarted unless it recovers", "err", err, "goroutines", ours(stacks()))
	case err == nil && a.stuck:
		a.log.Info("loop responds again")
	}
	a.stuck = err != nil
}

// Bounds of what is read, and of what is logged.
const (
	mostStacks = 4 << 20
	mostLogged = 64 << 10
)

// stacks are those of all goroutines.
func stacks() []byte {
	b := make([]byte, mostStacks)
	return b[:runtime.Stack(b, true)]
}

// ours leaves out the goroutines in which no code of ours is under way.
func ours(stacks []byte) string {
	var kept [][]byte
	for one := range bytes.SplitSeq(stacks, []byte("\n\n")) {
		if bytes.Contains(one, []byte("github.com/belfrylb/belfry/internal/")) {
			kept = append(kept, one)
		}
	}
	all := bytes.Join(kept, []byte("\n\n"))
	return string(all[:min(len(all), mostLogged)])
}
