package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/world"
)

var speakerStatuses = belfry.WithResource("speakerstatuses")

// probePause is the time between two looks for an answer. A speaker takes about a second
// (docs/design/probe.md).
const probePause = 200 * time.Millisecond

func (t *tool) probe() *cobra.Command {
	var by []string
	var patience time.Duration
	c := t.outputs(&cobra.Command{
		Use:   "probe ADDRESS",
		Short: "Ask on its segment who answers for an address, and show what routers were told",
		Long: `Probe has speakers ask for an address on its segment, as a client would, and prints every answer:
its hardware address, whose that is, what of the node answers, and after which time. Two nodes other
than the owner ask, if there are as many, so that each hears the kernel of the other; the owner asks,
too, and hears who else answers. Of an address that BGP announces it prints what each router was told.

It asks by the annotation belfry.dev/probe of a SpeakerStatus, so it needs the right to patch those
(ClusterRole belfry-probe), and reaches speakers through the API server alone. Of a dump it prints
what speakers said last when they were asked for the address.`,
		Example: `  kubectl belfry probe 203.0.113.10
  kubectl belfry probe 2001:db8:5::10 --by n2,n3
  kubectl belfry probe 203.0.113.10 -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			a, err := netip.ParseAddr(args[0])
			if err != nil {
				return fmt.Errorf("%q is no address", args[0])
			}
			s, w, err := t.look(c.Context())
			if err != nil {
				return err
			}
			said, err := t.ask(c.Context(), s, w, a.Unmap(), by, patience)
			if err != nil {
				return err
			}
			p := w.Probe(a.Unmap(), said)
			if err := t.print(p, func(page *page) { printProbe(page, p) }); err != nil {
				return err
			}
			if !p.Well {
				return errProblems
			}
			return nil
		},
	}, "json", "yaml")
	c.Flags().StringSliceVar(&by, "by", nil, "nodes whose speakers are to ask, instead of those that are chosen")
	c.Flags().DurationVar(&patience, "timeout", 10*time.Second, "how long to wait for the speakers' answers")
	return c
}

// ask has speakers ask for an address, and returns what they say: nil of one that has not
// answered in time.
func (t *tool) ask(ctx context.Context, s *store, w *world.World, a netip.Addr, by []string, patience time.Duration) (map[string]*v1beta1.ProbeStatus, error) {
	if t.dump() {
		return lastSaid(s, a), nil
	}
	if len(by) == 0 {
		var err error
		if by, err = w.Askers(a); err != nil {
			return nil, err
		}
	}
	client, err := t.client()
	if err != nil {
		return nil, err
	}
	speakers := client.Resource(speakerStatuses)
	request := a.String() + " " + strconv.FormatInt(t.now().UnixNano(), 36)
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{objects.AnnotationProbe: request}}})
	if err != nil {
		return nil, err
	}
	said := map[string]*v1beta1.ProbeStatus{}
	for _, node := range by {
		if _, err := speakers.Patch(ctx, node, types.MergePatchType, body, metav1.PatchOptions{FieldManager: "kubectl-belfry"}); err != nil {
			return nil, fmt.Errorf("ask the speaker of %s: %w", node, err)
		}
		said[node] = nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(probePause)
	defer tick.Stop()
	for waiting := slices.Clone(by); len(waiting) > 0; {
		select {
		case <-ctx.Done():
			return said, nil
		case <-tick.C:
		}
		waiting = slices.DeleteFunc(waiting, func(node string) bool {
			is := answer(ctx, speakers, node)
			if is == nil || is.Request != request {
				return false
			}
			said[node] = is
			return true
		})
	}
	return said, nil
}

// answer reads what a speaker says, nil if it cannot.
func answer(ctx context.Context, speakers dynamic.ResourceInterface, node string) *v1beta1.ProbeStatus {
	o, err := speakers.Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return nil // there may be time for another attempt
	}
	var is v1beta1.SpeakerStatus
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &is); err != nil {
		return nil
	}
	return is.Status.Probe
}

// lastSaid returns what speakers said last who were asked for an address.
func lastSaid(s *store, a netip.Addr) map[string]*v1beta1.ProbeStatus {
	said := map[string]*v1beta1.ProbeStatus{}
	for _, o := range s.objects.Speakers {
		if is := o.Status.Probe; is != nil {
			if of, err := netip.ParseAddr(strings.Fields(is.Request + " -")[0]); err == nil && of.Unmap() == a {
				said[o.Name] = is
			}
		}
	}
	return said
}

// voices are what of a node answers, for people.
var voices = map[string]string{
	string(v1beta1.VoiceSpeaker): "its speaker", string(v1beta1.VoiceKernel): "its kernel",
	string(v1beta1.VoiceUnheard): "its speaker, which gossip does not hear, or its kernel", string(v1beta1.VoiceStranger): "no Node of the cluster",
}

// printProbe writes who answers for an address.
func printProbe(p *page, is *world.Probe) {
	p.head("Address " + is.Address.String())
	if is.Owner == "" {
		p.wrapped(2, "No speaker says that it answers for it by layer 2.")
	} else {
		p.wrapped(2, "Node "+is.Owner+" answers for it, its speaker says.")
	}
	printAnswers(p, is)
	if is.Routers != nil {
		p.line("")
		p.head("Routers")
		for _, l := range is.Routers.Lines {
			p.wrapped(2, l)
		}
		p.table(2, is.Routers.Table, nil)
	}
	switch {
	case is.Problem != "":
		p.line("")
		p.head(cmp.Or(is.Verdict, "Problem"))
		p.wrapped(2, is.Problem)
	case is.Verdict != "":
		p.line("")
		p.line("%s: its owner alone answers.", p.paint(green, is.Verdict))
	}
}

// printAnswers writes who was asked, and who has answered.
func printAnswers(p *page, is *world.Probe) {
	p.line("")
	p.head("Asked")
	rows := [][]string{{"NODE", "INTERFACE", ""}}
	for _, a := range is.Asked {
		rows = append(rows, []string{a.Node, a.Interface, a.Problem})
	}
	if len(rows) == 1 {
		p.wrapped(2, "No speaker was asked.")
		return
	}
	p.table(2, rows, nil)
	p.line("")
	p.head("Answers")
	rows = [][]string{{"STATION", "NODE", "HEARD BY", "AFTER", "WHAT ANSWERS"}}
	for _, a := range is.Answers {
		node := a.Node
		if node == "" {
			node = "-"
		}
		rows = append(rows, []string{a.MAC, node, a.HeardBy, fmt.Sprintf("%.2f ms", float64(a.Microseconds)/1000), voices[a.Voice]})
	}
	if len(rows) == 1 {
		p.wrapped(2, "Nobody has answered.")
		return
	}
	p.table(2, rows, func(row []string) color {
		if row[1] == is.Owner {
			return green
		}
		return red
	})
}
