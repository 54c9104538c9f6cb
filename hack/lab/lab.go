package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
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
	// Profile builds them with the tag "profile" (internal/daemon), and has the API server
	// serve profiles of itself.
	Profile bool `json:"profile,omitempty"`
	// Keep leaves the run up when this process ends, until it is taken down.
	Keep bool `json:"keep,omitempty"`
	// Progress takes a line for each step; nil is silent.
	Progress io.Writer `json:"-"`
}

// A Lab is a run that is up. What one can do with it is in its parts.
type Lab struct {
	// Name is the run's name and the prefix of its namespaces: bf and four hex
	// digits.
	Name string
	// Dir is the run's directory.
	Dir string

	Network   *Network
	Processes *Processes
	Cluster   *Cluster
	Machines  *Machines
	Product   *Product
	Routers   *Routers
	Observers *Observers

	run *run
	// release ends the handling of signals.
	release func()
	// ending serializes what takes the run down: its owner, and an interrupt.
	ending sync.Mutex
}

// compose makes a run's parts. Each gets those that it needs; none needs one that
// is made after it.
func compose(r *run) *Lab {
	var (
		network   = &Network{run: r}
		processes = newProcesses(r)
		cluster   = &Cluster{run: r, network: network, processes: processes}
		tree      = &tree{run: r}
	)
	return &Lab{
		Name: r.name, Dir: r.dir,
		Network:   network,
		Processes: processes,
		Cluster:   cluster,
		Machines:  &Machines{run: r, network: network, processes: processes, cluster: cluster, tree: tree},
		Product:   &Product{run: r, processes: processes, cluster: cluster, tree: tree},
		Routers:   &Routers{run: r, network: network, processes: processes},
		Observers: &Observers{run: r, network: network},
		run:       r,
		release:   func() {},
	}
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
	r, err := create(opts, programs)
	if err != nil {
		return nil, err
	}
	l := compose(r)
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
		err = l.Cluster.start(ctx)
	} else {
		err = l.bringUp(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := r.change(func(st *state) error {
		st.Ready = true
		return nil
	}); err != nil {
		return nil, err
	}
	r.say("lab %s is up after %s", l.Name, time.Since(begun).Round(100*time.Millisecond))
	return l, nil
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
			stays := false
			l.run.look(func(st state) { stays = st.Options.Keep && st.Ready })
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

// Down ends every process and removes every namespace and file of the run but
// its logs.
func (l *Lab) Down(ctx context.Context) error {
	l.release()
	return l.down(ctx)
}

func (l *Lab) down(ctx context.Context) error {
	l.ending.Lock()
	defer l.ending.Unlock()
	errs := []error{l.Processes.end(ctx)}
	if !l.run.options.ControlPlaneOnly {
		errs = append(errs, l.Network.remove(ctx))
	}
	if l.run.options.Containers {
		errs = append(errs, l.Machines.removeCgroups(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the state stays, so that it can be tried again
	}
	entries, err := os.ReadDir(l.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() != logs {
			errs = append(errs, os.RemoveAll(filepath.Join(l.Dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// RemoveLogs removes what Down leaves.
func (l *Lab) RemoveLogs() error { return os.RemoveAll(l.Dir) }

// Heal ends every fault of the network and lets stopped processes go on. What
// was killed stays dead.
func (l *Lab) Heal(ctx context.Context) error {
	return errors.Join(l.Network.heal(ctx), l.Processes.resume())
}

// bringUp makes the hosts, the cluster and its nodes.
func (l *Lab) bringUp(ctx context.Context) error {
	// What runs Pods is of this tree; it links while the API server starts.
	var g errgroup.Group
	g.Go(func() error { return l.Machines.build(ctx) })
	if err := l.Network.build(ctx); err != nil {
		return errors.Join(err, g.Wait())
	}
	if err := l.Cluster.start(ctx); err != nil {
		return errors.Join(err, g.Wait())
	}
	if err := l.Machines.register(ctx); err != nil {
		return errors.Join(err, g.Wait())
	}
	l.run.say("starting kube-controller-manager, kube-scheduler, and kube-proxy on each node")
	if err := l.Cluster.startControllers(); err != nil {
		return errors.Join(err, g.Wait())
	}
	if err := l.Machines.startKubeProxies(); err != nil {
		return errors.Join(err, g.Wait())
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := l.Machines.start(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("a minute has passed"))
	defer cancel()
	if err := l.Cluster.awaitControllers(ctx); err != nil {
		return err
	}
	return l.Machines.await(ctx)
}

// LogDir holds one log per process, and the API server's audit log.
func (l *Lab) LogDir() string { return l.run.logDir() }
