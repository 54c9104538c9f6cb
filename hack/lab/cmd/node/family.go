package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
)

// A family is every process of the node: those that we start, and the orphans
// that fall to the first process. All are reaped.
type family struct {
	mu sync.Mutex
	// awaited are those that we started, by process id.
	awaited map[int]chan<- syscall.WaitStatus
}

// adopt begins to reap.
func adopt() *family {
	f := &family{awaited: map[int]chan<- syscall.WaitStatus{}}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go func() {
		for range ended {
			f.reap()
		}
	}()
	return f
}

func (f *family) reap() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if pid <= 0 || err != nil {
			return
		}
		if c := f.awaited[pid]; c != nil {
			c <- status
			delete(f.awaited, pid)
		}
	}
}

// start runs a program; the channel tells how it ended.
func (f *family) start(args []string) (<-chan syscall.WaitStatus, error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return nil, err
	}
	f.mu.Lock() // so that nobody reaps it before we know it
	defer f.mu.Unlock()
	p, err := os.StartProcess(path, args, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}, Env: os.Environ()})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	c := make(chan syscall.WaitStatus, 1)
	f.awaited[p.Pid] = c
	return c, nil
}

func tell(s syscall.WaitStatus) string {
	if s.Signaled() {
		return "signal: " + s.Signal().String()
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}
