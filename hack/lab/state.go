package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// state is what another process must know about a run to use it or to remove
// it: the file state.json in the run's directory.
type state struct {
	Name    string  `json:"name"`
	Options Options `json:"options"`
	// Owner is the process whose end ends the run; zero for a run that stays up.
	Owner    pid        `json:"owner,omitzero"`
	Programs Programs   `json:"programs"`
	Procs    []*Process `json:"processes"`
	// Drops are the faults of the switch.
	Drops []Drop `json:"drops,omitempty"`
	// MACs are the hardware addresses that hosts were given since, by address.
	MACs map[string]string `json:"macs,omitempty"`
	// Ready is set when Up has returned.
	Ready bool `json:"ready"`
}

// StateDir holds one directory per run: $BELFRY_LAB_DIR, else one of the user's
// in the directory for temporary files.
func StateDir() string {
	if dir := os.Getenv("BELFRY_LAB_DIR"); dir != "" {
		return dir
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("belfry-lab-%d", os.Getuid()))
}

// A Run is what [List] tells of a run.
type Run struct {
	Name, Dir string
	Nodes     int
	// Kept is set for a run that stays up until it is taken down.
	Kept bool
	// Owner is the process id that the run belongs to, unless it is kept.
	Owner int
	// Dead is set when the process that the run belonged to is gone.
	Dead bool
}

// List returns all runs that have left a directory, by name.
func List() ([]Run, error) {
	entries, err := os.ReadDir(StateDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var runs []Run
	for _, e := range entries {
		dir := filepath.Join(StateDir(), e.Name())
		st, err := readState(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // logs of a run that was taken down
		}
		if err != nil {
			return nil, fmt.Errorf("run %s: %w", e.Name(), err)
		}
		kept := st.Owner == pid{}
		runs = append(runs, Run{
			Name: st.Name, Dir: dir, Nodes: st.Options.Nodes,
			Kept: kept, Owner: st.Owner.ID, Dead: !kept && !st.Owner.alive(),
		})
	}
	return runs, nil
}

func readState(dir string) (state, error) {
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return state{}, err
	}
	var st state
	if err := json.Unmarshal(b, &st); err != nil {
		return state{}, fmt.Errorf("%s: %w", stateFile, err)
	}
	return st, nil
}

// Attach returns the run of that name, which another process brought up. An
// empty name means the only one there is.
func Attach(name string) (*Lab, error) {
	if name == "" {
		runs, err := List()
		if err != nil {
			return nil, err
		}
		var names []string
		for _, r := range runs {
			if r.Kept {
				names = append(names, r.Name)
			}
		}
		switch len(names) {
		case 0:
			return nil, errors.New("no lab is up (lab up)")
		case 1:
			name = names[0]
		default:
			return nil, fmt.Errorf("several labs are up, say which with --lab: %s", strings.Join(names, ", "))
		}
	}
	dir := filepath.Join(StateDir(), name)
	st, err := readState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no lab %q (lab list)", name)
	}
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	return attach(dir, st), nil
}

func attach(dir string, st state) *Lab {
	return compose(newRun(dir, st, io.Discard))
}

// Sweep removes what dead runs left behind, and returns their names.
func Sweep(ctx context.Context) ([]string, error) {
	runs, err := List()
	if err != nil {
		return nil, err
	}
	var (
		names []string
		errs  []error
	)
	for _, r := range runs {
		if !r.Dead {
			continue
		}
		st, err := readState(r.Dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // somebody else was quicker
		}
		if err == nil {
			err = attach(r.Dir, st).Down(ctx)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove dead run %s: %w", r.Name, err))
			continue
		}
		names = append(names, r.Name)
	}
	return names, errors.Join(errs...)
}
