package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A pid names a process for as long as the machine is up: process ids come
// round again, but not with the same start time.
type pid struct {
	ID    int    `json:"id"`
	Start uint64 `json:"start"` // clock ticks since boot, proc(5)
}

// self is the calling process.
func self() (pid, error) { return pidOf(os.Getpid()) }

// pidOf reads the start time of a running process. A zombie counts as gone.
func pidOf(id int) (pid, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id))
	if err != nil {
		return pid{}, err
	}
	// The second field is the command in parentheses and may hold anything.
	rest := stat[bytes.LastIndexByte(stat, ')')+1:]
	fields := strings.Fields(string(rest))
	const state, starttime = 0, 19
	if len(fields) <= starttime {
		return pid{}, fmt.Errorf("/proc/%d/stat: %q", id, stat)
	}
	if fields[state] == "Z" || fields[state] == "X" {
		return pid{}, os.ErrProcessDone
	}
	start, err := strconv.ParseUint(fields[starttime], 10, 64)
	return pid{ID: id, Start: start}, err
}

// alive reports whether it still runs.
func (p pid) alive() bool {
	now, err := pidOf(p.ID)
	return err == nil && now == p
}

// signal sends sig, or returns os.ErrProcessDone.
func (p pid) signal(sig syscall.Signal) error {
	// The descriptor pins the process, so that it cannot be replaced between the
	// comparison and the signal.
	fd, err := unix.PidfdOpen(p.ID, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", p.ID, err)
	}
	defer unix.Close(fd)
	if !p.alive() {
		return os.ErrProcessDone
	}
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// wait returns when the process has ended. It need not be our child.
func (p pid) wait(ctx context.Context) error {
	fd, err := unix.PidfdOpen(p.ID, 0)
	if err != nil {
		return nil // gone
	}
	defer unix.Close(fd)
	for p.alive() {
		if err := ctx.Err(); err != nil {
			return err
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 20); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll pidfd of %d: %w", p.ID, err)
		}
	}
	return nil
}

// A Process is a program that the lab runs in one of its hosts.
type Process struct {
	// Name is unique in the run: "etcd", "speaker/node1".
	Name string `json:"name"`
	// Host is the host in whose namespace it runs; empty is the machine itself.
	Host string `json:"host,omitempty"`
	// Args is the command line.
	Args []string `json:"args"`
	// Log is the file that takes its output; a restart appends.
	Log string `json:"log"`
	// Process is its identity; zero when it was never started.
	Process pid `json:"pid"`

	// Machine is set when it is the first process of a node: it has process ids
	// and mounts of its own, and whatever runs there ends with it.
	Machine bool `json:"machine,omitempty"`

	// attend is whether it dies with this process (Pdeathsig).
	attend bool
	// netns is the file of its host's namespace; empty for the machine's own.
	netns string
	// exited is closed when our child has been reaped; nil for a process that
	// another lab command started.
	exited chan struct{}
	mu     sync.Mutex
}

// PID is its current process id.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.Process.ID
}

func (p *Process) id() pid {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.Process
}

// Alive reports whether it runs (a stopped process does).
func (p *Process) Alive() bool { return p.id().alive() }

// Signal sends a signal.
func (p *Process) Signal(sig syscall.Signal) error {
	if err := p.id().signal(sig); err != nil {
		return fmt.Errorf("signal %s to %s: %w", unix.SignalName(sig), p.Name, err)
	}
	return nil
}

// Kill ends it as a crash would (SIGKILL) and waits until it is gone. It is no
// error if it has ended already.
func (p *Process) Kill(ctx context.Context) error {
	if err := p.id().signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	return p.Wait(ctx)
}

// Terminate ends it as an orderly shutdown would (SIGTERM) and waits until it
// is gone.
func (p *Process) Terminate(ctx context.Context) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return p.Wait(ctx)
}

// Pause stops it (SIGSTOP): its sockets stay, it does nothing.
func (p *Process) Pause() error { return p.Signal(syscall.SIGSTOP) }

// Resume lets a paused process go on (SIGCONT).
func (p *Process) Resume() error { return p.Signal(syscall.SIGCONT) }

// Wait returns when it has ended.
func (p *Process) Wait(ctx context.Context) error {
	p.mu.Lock()
	exited, id := p.exited, p.Process
	p.mu.Unlock()
	if exited == nil {
		return id.wait(ctx)
	}
	select {
	case <-exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %s (pid %d): %w", p.Name, id.ID, ctx.Err())
	}
}

// Tail returns the last lines of its log.
func (p *Process) Tail(lines int) string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return strings.Join(lastLines(strings.Split(strings.TrimRight(string(b), "\n"), "\n"), lines), "\n")
}

// start runs the command line.
func (p *Process) start() error {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args := p.Args
	if p.netns != "" {
		// nsenter execs in place, so the process id is the program's own.
		args = append([]string{"nsenter", "--net=" + p.netns, "--"}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = filepath.Dir(p.Log)
	// A group of its own keeps the terminal's Ctrl-C from it: the lab decides
	// what ends, and when.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: !p.attend, Setpgid: p.attend}
	if p.Machine {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	}
	if p.attend {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := startOnSpawner(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	id, err := pidOf(cmd.Process.Pid)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return fmt.Errorf("start %s: it ended at once:\n%s", p.Name, p.Tail(10))
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		p.note("ended: " + cmd.ProcessState.String())
		close(exited)
	}()
	p.mu.Lock()
	p.Process, p.exited = id, exited
	p.mu.Unlock()
	return nil
}

// note adds a line of the lab's own to the log: a process that is killed cannot say so.
func (p *Process) note(line string) {
	log, err := os.OpenFile(p.Log, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return // The run was taken down.
	}
	defer log.Close()
	fmt.Fprintf(log, "%s lab: %s %s\n", time.Now().UTC().Format(time.RFC3339Nano), p.Name, line)
}

// spawner starts children on one thread that lives as long as this process.
// Pdeathsig fires when the *thread* that forked ends, and Go ends threads when
// a goroutine exits that had locked one.
var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		lockThread()
		for f := range work {
			f()
		}
	}()
	return work
})

func startOnSpawner(cmd *exec.Cmd) error {
	err := make(chan error)
	spawner() <- func() { err <- cmd.Start() }
	return <-err
}

// await calls check until it returns nil, and returns its last error when ctx
// ends first.
func await(ctx context.Context, what string, check func() error) error {
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; last seen: %w", what, context.Cause(ctx), err)
		case <-time.After(25 * time.Millisecond):
		}
	}
}
