package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// A tap keeps what a program on one of the lab's hosts prints, with the time of each
// line.
type tap struct {
	mu    sync.Mutex
	lines []tapped
	stop  func()
}

type tapped struct {
	at   time.Time
	text string
}

// tap starts a program on a host.
func (c *cluster) tap(ctx context.Context, host string, args ...string) (*tap, error) {
	cmd := c.Network.Command(ctx, host, args...)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s on %s: %w", args[0], host, err)
	}
	t := &tap{}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			t.mu.Lock()
			t.lines = append(t.lines, tapped{time.Now(), lines.Text()})
			t.mu.Unlock()
		}
	})
	t.stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		w.Close()
		reading.Wait()
	}
	return t, nil
}

// since returns the time of the first line since then that holds a text. It waits for
// one.
func (t *tap) since(ctx context.Context, then time.Time, text string) (at time.Time, err error) {
	err = eventually(ctx, 10*time.Second, fmt.Sprintf("a line with %q is printed", text), func() error {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, l := range t.lines {
			if !l.at.Before(then) && strings.Contains(l.text, text) {
				at = l.at
				return nil
			}
		}
		return errors.New("it is not")
	})
	return at, err
}
