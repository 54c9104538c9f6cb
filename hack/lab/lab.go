package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Options say what a run consists of.
type Options struct {
	// Nodes is the number of nodes, node1 and on; 3 when it is 0.
	Nodes int `json:"nodes"`
	// ControlPlaneOnly runs etcd and the API server alone, on a loopback address
	// of this run. It needs no root.
	ControlPlaneOnly bool `json:"controlPlaneOnly,omitempty"`
	// Containers gives each node a kubelet and containerd, so that Pods are what
	// they are elsewhere; without it they are HTTP servers of the lab.
	Containers bool `json:"containers,omitempty"`
	// Images are archives of images that the nodes import; only with Containers.
	Images []string `json:"images,omitempty"`
	// Race builds the controller and the speaker with the race detector.
	Race bool `json:"race,omitempty"`
	// Keep leaves the run up when this process ends, until it is taken down.
	Keep bool `json:"keep,omitempty"`
	// Progress takes a line for each step; nil is silent.
	Progress io.Writer `json:"-"`
}

// A Lab is a run that is up.
type Lab struct {
	// Name is the run's name and the prefix of its namespaces: bf and four hex
	// digits.
	Name string
	// Dir is the run's directory.
	Dir string

	progress io.Writer
	mu       sync.Mutex // guards state, and state.json
	state    state
	// ca signs the run's certificates; nil in a process that did not bring it up.
	ca *authority
	// release ends the handling of signals.
	release func()
	// ending serializes what takes the run down: its owner, and an interrupt.
	ending sync.Mutex
}

// Up brings a run up, and takes down whatever it had begun when it fails or
// ctx ends. Programs that are not in the cache yet are built first. Unless
// Keep is set, the run ends with this process, also when that is interrupted.
func Up(ctx context.Context, opts Options) (_ *Lab, err error) {
	switch {
	case opts.ControlPlaneOnly:
		opts.Nodes = 0
	case opts.Nodes == 0:
		opts.Nodes = 3
	}
	if opts.Progress == nil {
		opts.Progress = io.Discard
	}
	if opts.Nodes < 0 || opts.Nodes > maxNodes {
		return nil, fmt.Errorf("a lab has 1 to %d nodes, not %d", maxNodes, opts.Nodes)
	}
	if !opts.ControlPlaneOnly {
		if why := unableTo(opts); why != nil {
			return nil, why
		}
	}
	programs, err := build(ctx, opts.Progress, toolchainsFor(opts))
	if err != nil {
		return nil, err
	}
	if dead, err := Sweep(ctx); err != nil {
		fmt.Fprintf(opts.Progress, "leftovers: %v\n", err)
	} else if len(dead) > 0 {
		fmt.Fprintf(opts.Progress, "removed what dead runs left behind: %v\n", dead)
	}
	l, err := create(opts, programs)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	ctx, stop := context.WithCancelCause(ctx)
	settled := make(chan struct{})
	defer close(settled)
	l.handleInterrupts(stop, settled)
	defer func() {
		if err != nil {
			err = fmt.Errorf("lab %s (logs in %s): %w", l.Name, l.LogDir(), err)
			down, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
			defer cancel()
			err = errors.Join(err, l.Down(down))
		}
	}()
	if opts.ControlPlaneOnly {
		err = l.startControlPlane(ctx)
	} else {
		err = l.bringUp(ctx)
	}
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Ready = true
	if err := l.save(); err != nil {
		return nil, err
	}
	l.say("lab %s is up after %s", l.Name, time.Since(begun).Round(100*time.Millisecond))
	return l, nil
}

// create makes the run's directory, which reserves its name.
func create(opts Options, programs Programs) (*Lab, error) {
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
		l := &Lab{Name: name, Dir: dir, progress: opts.Progress, release: func() {}}
		l.state = state{Name: name, Options: opts, Owner: owner, Programs: programs}
		for _, sub := range []string{logDir, pkiDir, dataDir} {
			if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
				return nil, err
			}
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		return l, l.save()
	}
}

const (
	logDir  = "logs"
	pkiDir  = "pki"
	dataDir = "data"
)

// LogDir holds one log per process, and the API server's audit log.
func (l *Lab) LogDir() string { return filepath.Join(l.Dir, logDir) }

func (l *Lab) say(format string, args ...any) {
	fmt.Fprintf(l.progress, format+"\n", args...)
}

// handleInterrupts takes the run down on SIGINT and SIGTERM, and then lets the
// signal have its usual effect. A run that is still coming up is stopped first
// (it takes itself down, and is settled then); a kept run that is up stays.
func (l *Lab) handleInterrupts(stop context.CancelCauseFunc, settled <-chan struct{}) {
	c := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	l.release = sync.OnceFunc(func() { close(done) })
	go func() {
		defer signal.Stop(c)
		select {
		case <-done:
		case sig := <-c:
			stop(fmt.Errorf("interrupted by signal %s", sig))
			<-settled
			l.mu.Lock()
			stays := l.state.Options.Keep && l.state.Ready
			l.mu.Unlock()
			if !stays {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				if err := l.down(ctx); err != nil {
					fmt.Fprintf(os.Stderr, "lab %s: %v\n", l.Name, err)
				}
			}
			signal.Stop(c)
			_ = syscall.Kill(os.Getpid(), sig.(syscall.Signal))
		}
	}()
}

// spawn starts a program in a host's namespace and remembers it. Its log is
// named after it.
func (l *Lab) spawn(name, host string, args ...string) (*Process, error) {
	return l.add(&Process{Name: name, Host: host, Args: args})
}

// spawnMachine starts the first process of a node.
func (l *Lab) spawnMachine(name, host string, args ...string) (*Process, error) {
	return l.add(&Process{Name: name, Host: host, Args: args, Machine: true})
}

func (l *Lab) add(p *Process) (*Process, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.IndexFunc(l.state.Procs, func(other *Process) bool { return other.Name == p.Name }); i >= 0 {
		if l.state.Procs[i].Alive() {
			return nil, fmt.Errorf("%s runs already", p.Name)
		}
		l.state.Procs = slices.Delete(l.state.Procs, i, i+1)
	}
	p.Log = filepath.Join(l.LogDir(), logName(p.Name))
	p.netns = l.netnsPath(p.Host)
	p.attend = !l.state.Options.Keep
	if err := p.start(); err != nil {
		return nil, err
	}
	l.state.Procs = append(l.state.Procs, p)
	return p, l.save()
}

func logName(process string) string {
	b := []byte(process)
	for i, c := range b {
		if c == '/' {
			b[i] = '-'
		}
	}
	return string(b) + ".log"
}

// Process returns the process of that name.
func (l *Lab) Process(name string) (*Process, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for _, p := range l.state.Procs {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return nil, fmt.Errorf("no process %q; there are %v", name, names)
}

// Processes returns all that were started, in that order.
func (l *Lab) Processes() []*Process {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.state.Procs)
}

// Restart starts a process again with the same command line; if it still
// runs it is terminated first (SIGTERM).
func (l *Lab) Restart(ctx context.Context, name string) error {
	p, err := l.Process(name)
	if err != nil {
		return err
	}
	if p.Alive() {
		if err := p.Terminate(ctx); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state.Options.Keep {
		p.attend = false
	}
	if err := p.start(); err != nil {
		return err
	}
	return l.save()
}

// Down ends every process and removes every namespace and file of the run but
// its logs.
func (l *Lab) Down(ctx context.Context) error {
	if l.release != nil {
		l.release()
	}
	return l.down(ctx)
}

func (l *Lab) down(ctx context.Context) error {
	l.ending.Lock()
	defer l.ending.Unlock()
	var errs []error
	procs := l.Processes()
	slices.Reverse(procs)
	for _, p := range procs {
		if err := p.id().signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, fmt.Errorf("kill %s: %w", p.Name, err))
		}
	}
	for _, p := range procs {
		if err := p.Wait(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	if !l.state.Options.ControlPlaneOnly {
		errs = append(errs, l.removeNamespaces(ctx))
	}
	if l.state.Options.Containers {
		errs = append(errs, l.removeCgroups(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the state stays, so that it can be tried again
	}
	entries, err := os.ReadDir(l.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() != logDir {
			errs = append(errs, os.RemoveAll(filepath.Join(l.Dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// RemoveLogs removes what Down leaves.
func (l *Lab) RemoveLogs() error { return os.RemoveAll(l.Dir) }
