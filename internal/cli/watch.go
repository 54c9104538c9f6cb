package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/belfrylb/belfry/internal/world"
)

// How often something is done: docs/design/live-view.md.
const (
	// coalesced is the least time between two pictures: what comes meanwhile is in the
	// next.
	coalesced = 500 * time.Millisecond
	// leaseLook is between two looks at the controller's Lease. Who may view may get it,
	// and not watch it.
	leaseLook = 5 * time.Second
)

func (t *tool) watch() *cobra.Command {
	return &cobra.Command{
		Use:   "watch",
		Short: "Show nodes, addresses, sessions and moves live, in a terminal",
		Long: `Watch shows nodes, addresses, sessions with routers, moves and problems as they are, and goes on with
what changes. It needs a terminal.

Keys: tab and the arrows left and right choose what is shown, up, down, page up, page down, home and
end scroll, q and ctrl-c end it. While the API server does not answer it says so, and shows what was
known last.`,
		Example: `  kubectl belfry watch
  NO_COLOR=1 kubectl belfry watch --context edge`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case t.dump():
				return fmt.Errorf("--from: nothing happens in a dump; kubectl belfry status shows it")
			case !t.terminal:
				return fmt.Errorf("watch needs a terminal, and the output is none: use kubectl belfry status, or kubectl belfry events -w")
			}
			s, now, err := t.read(c.Context(), worldKinds)
			if err != nil {
				return err
			}
			client, err := t.reader()
			if err != nil {
				return err
			}
			ctx, stop := context.WithCancel(c.Context())
			var feeding sync.WaitGroup
			defer feeding.Wait()
			defer stop()
			first := s.world(t.settings, now).Picture()
			program := tea.NewProgram(&live{screen: screen{picture: first, now: now, colors: t.colors}, clock: t.now},
				tea.WithContext(ctx), tea.WithInput(t.In), tea.WithOutput(t.Out), tea.WithoutSignalHandler())
			f := &feed{store: s, in: make(chan func(*feed)), troubles: map[string]string{}}
			for _, k := range kinds {
				if !worldKinds(k) || s.versions[k.resource] == "" {
					continue // who may not read it has been told
				}
				feeding.Go(func() { f.follower(ctx, k, client, t.installedIn()).run(ctx, s.versions[k.resource]) })
			}
			feeding.Go(func() {
				f.lease(ctx, func(ctx context.Context, path string) ([]byte, error) { return get(ctx, client, path) }, t.installedIn())
			})
			feeding.Go(func() {
				f.run(ctx, func(trouble string) {
					program.Send(update{s.world(t.settings, t.now()).Picture(), trouble})
				})
			})
			if _, err := program.Run(); err != nil && !errors.Is(err, tea.ErrInterrupted) && c.Context().Err() == nil {
				return err
			}
			return nil
		},
	}
}

// A feed keeps a store as the API server has it.
type feed struct {
	store *store
	// in has what changes the feed; run alone does.
	in       chan func(*feed)
	troubles map[string]string
	dirty    bool
}

// do has the goroutine of run do something.
func (f *feed) do(ctx context.Context, act func(*feed)) {
	select {
	case f.in <- act:
	case <-ctx.Done():
	}
}

// run takes changes until the context ends, and shows what came of them now and then.
func (f *feed) run(ctx context.Context, show func(trouble string)) {
	timer := time.NewTimer(coalesced)
	defer timer.Stop()
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case act := <-f.in:
			act(f)
			if f.dirty && due == nil {
				timer.Reset(coalesced)
				due = timer.C
			}
		case <-due:
			due, f.dirty = nil, false
			show(f.trouble())
		}
	}
}

// trouble says what cannot be read now: of several kinds, one, for it is mostly for one
// reason.
func (f *feed) trouble() string {
	for _, k := range kinds {
		if t := f.troubles[k.resource]; t != "" {
			return t
		}
	}
	return ""
}

// note notes why a kind cannot be read, or that it can again.
func (f *feed) note(k kind, err error) {
	text := ""
	if err != nil {
		text = inWords(err)
	}
	if f.troubles[k.resource] != text {
		f.troubles[k.resource], f.dirty = text, true
	}
}

// follower follows the objects of a kind.
func (f *feed) follower(ctx context.Context, k kind, client rest.Interface, namespace string) *follower {
	return &follower{
		client: client, path: k.path(namespace),
		listed: func(all []json.RawMessage) (err error) {
			f.do(ctx, func(f *feed) {
				k.clear(f.store)
				for _, body := range all {
					f.note(k, k.put(f.store, body))
				}
				f.dirty = true
			})
			return nil
		},
		changed: func(kind watch.EventType, body json.RawMessage) error {
			f.do(ctx, func(f *feed) {
				enter := k.put
				if kind == watch.Deleted {
					enter = k.drop
				}
				f.note(k, enter(f.store, body))
				f.dirty = true
			})
			return nil
		},
		failed: func(err error) { f.do(ctx, func(f *feed) { f.note(k, err) }) },
	}
}

// lease looks at the controller's Lease until the context ends.
func (f *feed) lease(ctx context.Context, get func(ctx context.Context, path string) ([]byte, error), namespace string) {
	k := kinds[kindOf("leases")]
	every := time.NewTicker(leaseLook)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		body, err := get(ctx, k.path(namespace))
		f.do(ctx, func(f *feed) {
			if f.note(k, err); err == nil {
				f.note(k, k.put(f.store, body))
			}
			f.dirty = true // who does not renew it is late by now
		})
	}
}

// An update is what a live view is told.
type update struct {
	picture *world.Picture
	// trouble says why the picture may be old; empty: it is not.
	trouble string
}

// tick says that time has passed.
type tick time.Time

// live is the view as a program of a terminal.
type live struct {
	screen
	clock func() time.Time
}

// Init begins to count time.
func (l *live) Init() tea.Cmd { return l.wait() }

func (l *live) wait() tea.Cmd {
	return tea.Tick(time.Second, func(time.Time) tea.Msg { return tick(l.clock()) })
}

// Update takes in what happened.
func (l *live) Update(m tea.Msg) (tea.Model, tea.Cmd) {
	switch m := m.(type) {
	case tea.WindowSizeMsg:
		l.resize(m.Width, m.Height)
	case update:
		l.show(m.picture, m.trouble)
	case tick:
		l.now = time.Time(m)
		return l, l.wait()
	case tea.KeyPressMsg:
		if l.press(m.String()) {
			return l, tea.Quit
		}
	}
	return l, nil
}

// View draws the screen.
func (l *live) View() tea.View {
	v := tea.NewView(strings.Join(l.lines(), "\n"))
	v.AltScreen = true
	return v
}
