package lab

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// A run is what all parts of a lab have in common: its name, its directory, its
// options, and the state that other processes read. It needs no other part.
type run struct {
	name     string
	dir      string
	options  Options
	programs Programs
	progress io.Writer

	mu    sync.Mutex // guards state, and state.json
	state state
}

// newRun is the run of a state, in its directory.
func newRun(dir string, st state, progress io.Writer) *run {
	return &run{name: st.Name, dir: dir, options: st.Options, programs: st.Programs, progress: progress, state: st}
}

// create makes the run's directory, which reserves its name.
func create(opts Options, programs Programs) (*run, error) {
	if err := os.MkdirAll(StateDir(), 0o755); err != nil {
		return nil, err
	}
	var owner pid
	if !opts.Keep {
		var err error
		if owner, err = self(); err != nil {
			return nil, err
		}
	}
	for {
		var b [2]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, err
		}
		name := "bf" + hex.EncodeToString(b[:])
		dir := filepath.Join(StateDir(), name)
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r := newRun(dir, state{Name: name, Options: opts, Owner: owner, Programs: programs}, opts.Progress)
		for _, sub := range []string{r.logDir(), r.data()} {
			if err := os.Mkdir(sub, 0o755); err != nil {
				return nil, err
			}
		}
		return r, r.change(func(*state) error { return nil })
	}
}

// logDir holds one log per process, and the API server's audit log.
func (r *run) logDir() string { return filepath.Join(r.dir, logs) }

// data is a file among what the run's processes are told and keep, or its directory.
func (r *run) data(file ...string) string {
	return filepath.Join(append([]string{r.dir, "data"}, file...)...)
}

// logs is the directory that is left when a run was taken down.
const logs = "logs"

// say tells of a step.
func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.progress, format+"\n", args...)
}

const netnsDir = "/run/netns"

// netns is the name of a host's namespace, as ip netns has it.
func (r *run) netns(host string) string { return r.name + "-" + host }

// netnsPath is the file of a host's namespace; empty for the machine's own.
func (r *run) netnsPath(host string) string {
	if host == "" {
		return ""
	}
	return filepath.Join(netnsDir, r.netns(host))
}

const stateFile = "state.json"

// change changes the state, and writes it unless that fails.
func (r *run) change(to func(*state) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := to(&r.state); err != nil {
		return err
	}
	b, err := json.MarshalIndent(&r.state, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(r.dir, stateFile+".tmp")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(r.dir, stateFile))
}

// look reads the state.
func (r *run) look(at func(state)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at(r.state)
}
