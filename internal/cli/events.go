package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// reporter is who writes our Events.
const reporter = "belfry.dev/controller"

func (t *tool) events() *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "events",
		Short: "List what happened to Services, pools, peers and speakers, in the order of time",
		Example: `  kubectl belfry events
  kubectl belfry events -w
  kubectl belfry events --from belfry-bug-report.tar.gz`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p := t.page()
			if t.dump() {
				if follow {
					return fmt.Errorf("--watch: nothing happens in a dump")
				}
				s, _, err := t.read(c.Context(), nil)
				if err != nil {
					return err
				}
				printEvents(p, s.events)
				return nil
			}
			client, err := t.client()
			if err != nil {
				return err
			}
			in := client.Resource(eventsv1.SchemeGroupVersion.WithResource("events"))
			options := metav1.ListOptions{FieldSelector: "reportingController=" + reporter}
			l, err := in.List(c.Context(), options)
			if err != nil {
				return fmt.Errorf("list events: %w", err)
			}
			var all []*eventsv1.Event
			for i := range l.Items {
				e, err := eventOf(&l.Items[i])
				if err != nil {
					return err
				}
				all = append(all, e)
			}
			printEvents(p, all)
			if !follow {
				return nil
			}
			options.ResourceVersion = l.GetResourceVersion()
			w, err := in.Watch(c.Context(), options)
			if err != nil {
				return fmt.Errorf("watch events: %w", err)
			}
			defer w.Stop()
			return t.follow(c.Context(), p, w.ResultChan())
		},
	}
	c.Flags().BoolVarP(&follow, "watch", "w", false, "go on with what happens")
	return c
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

// follow prints Events as they come until the context ends.
func (t *tool) follow(ctx context.Context, p *page, in <-chan watch.Event) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case change, open := <-in:
			if !open {
				return fmt.Errorf("the API server has ended the watch")
			}
			u, is := change.Object.(*unstructured.Unstructured)
			if change.Type != watch.Added || !is {
				continue
			}
			e, err := eventOf(u)
			if err != nil {
				return err
			}
			printEvent(p, e)
		}
	}
}

func eventOf(u *unstructured.Unstructured) (*eventsv1.Event, error) {
	e := new(eventsv1.Event)
	return e, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, e)
}

func printEvent(p *page, e *eventsv1.Event) {
	c := plain
	if e.Type == "Warning" {
		c = yellow
	}
	about := strings.ToLower(e.Regarding.Kind) + "/" + strings.TrimPrefix(e.Regarding.Namespace+"/"+e.Regarding.Name, "/")
	p.line("%s", p.paint(c, fmt.Sprintf("%s  %-16s %s: %s", at(e).UTC().Format(time.RFC3339), e.Reason, about, e.Note)))
}
