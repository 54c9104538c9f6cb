package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Processes are the programs that a run has started on its hosts. Only they read
// and write what the state says of them.
type Processes struct {
	run *run
}

// newProcesses are the processes that the run's state knows.
func newProcesses(r *run) *Processes {
	for _, p := range r.state.Procs {
		p.netns = r.netnsPath(p.Host)
	}
	return &Processes{run: r}
}

// spawn starts a program in a host's namespace and remembers it. Its log is
// named after it.
func (ps *Processes) spawn(name, host string, args ...string) (*Process, error) {
	return ps.add(&Process{Name: name, Host: host, Args: args})
}

// spawnMachine starts the first process of a node.
func (ps *Processes) spawnMachine(name, host string, args ...string) (*Process, error) {
	return ps.add(&Process{Name: name, Host: host, Args: args, Machine: true})
}

func (ps *Processes) add(p *Process) (*Process, error) {
	p.Log = filepath.Join(ps.run.logDir(), fileName(p.Name)+".log")
	p.netns = ps.run.netnsPath(p.Host)
	p.attend = !ps.run.options.Keep
	err := ps.run.change(func(st *state) error {
		if i := slices.IndexFunc(st.Procs, func(other *Process) bool { return other.Name == p.Name }); i >= 0 {
			if st.Procs[i].Alive() {
				return fmt.Errorf("%s runs already", p.Name)
			}
			st.Procs = slices.Delete(st.Procs, i, i+1)
		}
		if err := p.start(); err != nil {
			return err
		}
		st.Procs = append(st.Procs, p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// fileName is what names a process, or who it is, in the name of a file.
func fileName(name string) string { return strings.ReplaceAll(name, "/", "-") }

// Process returns the process of that name.
func (ps *Processes) Process(name string) (*Process, error) {
	var names []string
	for _, p := range ps.All() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return nil, fmt.Errorf("no process %q; there are %v", name, names)
}

// All returns all that were started, in that order.
func (ps *Processes) All() (all []*Process) {
	ps.run.look(func(st state) { all = slices.Clone(st.Procs) })
	return all
}

// on returns all that were started on a host, in that order.
func (ps *Processes) on(host string) []*Process {
	return slices.DeleteFunc(ps.All(), func(p *Process) bool { return p.Host != host })
}

// do does something to the process of that name.
func (ps *Processes) do(name string, what func(*Process) error) error {
	p, err := ps.Process(name)
	if err != nil {
		return err
	}
	return what(p)
}

// Restart starts a process again with the same command line; if it still
// runs it is terminated first (SIGTERM).
func (ps *Processes) Restart(ctx context.Context, name string) error {
	p, err := ps.Process(name)
	if err != nil {
		return err
	}
	if p.Alive() {
		if err := p.Terminate(ctx); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	return ps.run.change(func(*state) error {
		if ps.run.options.Keep {
			p.attend = false
		}
		return p.start()
	})
}

// resume lets stopped processes go on.
func (ps *Processes) resume() error {
	var errs []error
	for _, p := range ps.All() {
		if err := p.Resume(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// end kills all, the last first, and waits until they are gone.
func (ps *Processes) end(ctx context.Context) error {
	var errs []error
	all := ps.All()
	slices.Reverse(all)
	for _, p := range all {
		if err := p.id().signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, fmt.Errorf("kill %s: %w", p.Name, err))
		}
	}
	for _, p := range all {
		errs = append(errs, p.Wait(ctx))
	}
	return errors.Join(errs...)
}

// firstDead adds to an error that some process has ended, if one has.
func (ps *Processes) firstDead(err error) error {
	for _, p := range ps.All() {
		if !p.Alive() {
			return fmt.Errorf("%w; %s ended:\n%s", err, p.Name, p.Tail(15))
		}
	}
	return err
}
