package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// reporter is who writes our Events.
const reporter = "belfry.dev/controller"

func (t *tool) events() *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "events",
		Short: "List what happened to Services, pools, peers and speakers, in the order of time",
		Long: `Events lists what happened to Services, pools, peers and speakers, in the order of time. The API
server keeps Events for an hour, unless it is told otherwise.

With -w it goes on with what happens, until it is interrupted. While it cannot reach the API server
it says so and tries again.`,
		Example: `  kubectl belfry events
  kubectl belfry events -w
  kubectl belfry events --from belfry-bug-report.tar.gz`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if t.dump() {
				if follow {
					return fmt.Errorf("--watch: nothing happens in a dump")
				}
				s, _, err := t.read(c.Context(), nil)
				if err != nil {
					return err
				}
				printEvents(t.page(), s.events)
				return nil
			}
			client, err := t.reader()
			if err != nil {
				return err
			}
			l := &timeline{page: t.page(), errors: t.ErrOut}
			f := &follower{
				client: client, path: "/apis/" + eventsv1.SchemeGroupVersion.String() + "/events", parameters: []string{"fieldSelector", "reportingController=" + reporter},
				listed: l.listed, changed: l.changed, failed: l.failed,
			}
			version, err := f.list(c.Context())
			if err != nil {
				return fmt.Errorf("list events: %w", err)
			}
			if follow {
				f.run(c.Context(), version)
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&follow, "watch", "w", false, "go on with what happens")
	return c
}

// A timeline prints each Event once.
type timeline struct {
	page    *page
	errors  io.Writer
	printed map[types.UID]bool
	failing bool
}

// listed prints those of all Events that it has not printed yet, and remembers no others.
func (l *timeline) listed(all []json.RawMessage) error {
	before := l.printed
	l.printed = make(map[types.UID]bool, len(all))
	var fresh []*eventsv1.Event
	for _, body := range all {
		e := new(eventsv1.Event)
		if err := json.Unmarshal(body, e); err != nil {
			return err
		}
		l.printed[e.UID] = true
		if !before[e.UID] {
			fresh = append(fresh, e)
		}
	}
	printEvents(l.page, fresh)
	return nil
}

// changed prints an Event that is new.
func (l *timeline) changed(kind watch.EventType, body json.RawMessage) error {
	e := new(eventsv1.Event)
	if err := json.Unmarshal(body, e); err != nil {
		return err
	}
	switch {
	case kind == watch.Deleted:
		delete(l.printed, e.UID)
	case !l.printed[e.UID]:
		l.printed[e.UID] = true
		printEvents(l.page, []*eventsv1.Event{e})
	}
	return nil
}

// failed says that nothing more is heard for now, and that it is again.
func (l *timeline) failed(err error) {
	switch {
	case err == nil && l.failing:
		fmt.Fprintln(l.errors, "watching again")
	case err != nil:
		fmt.Fprintln(l.errors, "warning: "+inWords(err)+"; trying again")
	}
	l.failing = err != nil
}

// printEvents writes our Events of some in the order of time.
func printEvents(p *page, all []*eventsv1.Event) {
	all = slices.DeleteFunc(slices.Clone(all), func(e *eventsv1.Event) bool { return e.ReportingController != reporter })
	slices.SortStableFunc(all, func(a, b *eventsv1.Event) int { return at(a).Compare(at(b)) })
	for _, e := range all {
		printEvent(p, e)
	}
}

// at is when an Event happened.
func at(e *eventsv1.Event) time.Time { return cmp.Or(e.EventTime.Time, e.CreationTimestamp.Time) }

func printEvent(p *page, e *eventsv1.Event) {
	c := plain
	if e.Type == "Warning" {
		c = yellow
	}
	about := strings.ToLower(e.Regarding.Kind) + "/" + strings.TrimPrefix(e.Regarding.Namespace+"/"+e.Regarding.Name, "/")
	p.line("%s", p.paint(c, fmt.Sprintf("%s  %-16s %s: %s", at(e).UTC().Format(time.RFC3339), e.Reason, about, e.Note)))
}
