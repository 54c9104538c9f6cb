package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/world"
)

func (t *tool) status() *cobra.Command {
	return t.outputs(&cobra.Command{
		Use:   "status",
		Short: "Show controller, speakers, pools, Services, nodes, routers and problems on one screen",
		Example: `  kubectl belfry status
  kubectl belfry status -o wide
  kubectl belfry status --from dump.yaml -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, w, err := t.look(c.Context())
			if err != nil {
				return err
			}
			s := w.Status()
			if t.output == "name" {
				for _, p := range s.Problems {
					fmt.Fprintln(t.Out, p.Object)
				}
			} else if err := t.print(s, func(p *page) { printStatus(p, s, t.output == "wide") }); err != nil {
				return err
			}
			if !s.Well() {
				return errProblems
			}
			return nil
		},
	}, "wide", "json", "yaml", "name")
}

// targetOf reads the name of what is to be explained.
func targetOf(text string) world.Target {
	kinds := map[string]string{
		"service": "service", "services": "service", "svc": "service", "address": "address", "pool": "pool", "ipaddresspool": "pool",
		"ipaddresspools": "pool", "peer": "peer", "bgppeer": "peer", "bgppeers": "peer", "node": "node", "nodes": "node",
	}
	if head, rest, ok := strings.Cut(text, "/"); ok && kinds[head] != "" && rest != "" {
		return world.Target{Kind: kinds[head], Name: rest}
	}
	return world.Target{Name: text}
}

func (t *tool) explain() *cobra.Command {
	return t.outputs(&cobra.Command{
		Use:   "explain SERVICE|ADDRESS|POOL|PEER|NODE",
		Short: "Explain how an address came about, who announces it, and why others do not",
		Long: `Explain says of a Service which pools it could have an address from and why not, who announces
it since when, why the other nodes do not, who would take over next, and what to do. Of an address
it says whose it is; of a pool, a router (peer) or a node what there is to know about it.

A name that stands for several kinds is written with its kind: pool/edge, node/n1, service/web/shop.

It ends with 1 if status has a problem with what is explained, or nobody can announce it. What to
do also has hints about what is well.`,
		Example: `  kubectl belfry explain shop -n web
  kubectl belfry explain web/shop
  kubectl belfry explain 203.0.113.10
  kubectl belfry explain 2001:db8:5::10
  kubectl belfry explain pool/edge
  kubectl belfry explain node/n1 -o yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			_, w, err := t.look(c.Context())
			if err != nil {
				return err
			}
			e, err := w.Explain(targetOf(args[0]), t.namespace())
			if err != nil {
				return err
			}
			if err := t.print(e, func(p *page) { printExplanation(p, e) }); err != nil {
				return err
			}
			if !e.Well {
				return errProblems
			}
			return nil
		},
	}, "json", "yaml")
}

func (t *tool) plan() *cobra.Command {
	var files, failOn []string
	show := func(p *world.Plan) error {
		if err := t.print(p, func(page *page) { printPlan(page, p, t.output == "wide") }); err != nil {
			return err
		}
		if p.Fails(failOn) {
			return errProblems
		}
		return nil
	}
	checked := func(run func(c *cobra.Command, args []string, s *store, before *world.World) (after *world.Outcome, err error)) func(*cobra.Command, []string) error {
		return func(c *cobra.Command, args []string) error {
			for _, f := range failOn {
				if f != "lost" && !slices.Contains(world.Verbs, world.Verb(f)) {
					return fmt.Errorf("--fail-on %q: want lost, or what a plan says: %v", f, world.Verbs)
				}
			}
			s, w, err := t.look(c.Context())
			if err != nil {
				return err
			}
			after, err := run(c, args, s, w)
			if err != nil {
				return err
			}
			return show(world.Compare(w.Settle(), after))
		}
	}
	// edited is where the cluster goes with other objects.
	edited := func(s *store, w *world.World, o world.Objects) *world.Outcome {
		changed := *s
		changed.objects = o
		return changed.world(w.Settings, w.Now).Settle()
	}
	const marks = `Each line is an address of a Service: cut (no node announces it any more), orphaned (its pool no
longer covers it), waits, moves, released, given, announced, or stays (listed by -o wide).`
	root := t.outputs(&cobra.Command{
		Use:   "plan",
		Short: "Show what an edit, a drained node, a lost node or a deletion would change",
		Long: "Plan says what would change if objects were applied, without applying any: our kinds, Services,\nand labels, annotations and taints of Nodes.\n\n" + marks + `

It ends with 1 if the plan has something that --fail-on names. lost stands for cut.`,
		Example: `  kubectl belfry plan -f pool.yaml
  kubectl belfry plan -f manifests/ --fail-on lost,moves,waits
  kubectl belfry plan drain n1
  kubectl belfry plan lose n1 n2
  kubectl belfry plan delete pool/edge`,
		Args: cobra.NoArgs,
		RunE: checked(func(_ *cobra.Command, _ []string, s *store, w *world.World) (*world.Outcome, error) {
			if len(files) == 0 {
				return nil, fmt.Errorf("--filename: say what is to be applied, or use drain, lose or delete")
			}
			edits, err := readEdits(files, t.In)
			if err != nil {
				return nil, err
			}
			for _, e := range edits.Services {
				if e.Namespace == "" {
					e.Namespace = t.namespace()
				}
			}
			return edited(s, w, s.objects.Apply(edits, w.Now)), nil
		}),
	}, "wide", "json", "yaml")
	root.Flags().StringArrayVarP(&files, "filename", "f", nil, "file or directory with the objects to be applied (- is standard input)")
	root.PersistentFlags().StringSliceVar(&failOn, "fail-on", nil, "end with 1 if the plan has any of these, such as lost,moves,waits")
	root.AddCommand(
		t.outputs(&cobra.Command{
			Use: "drain NODE...", Short: "Show what draining nodes would change", Long: "Show what draining nodes would change: addresses move first, then the node stops.\n\n" + marks,
			Example: "  kubectl belfry plan drain n1", Args: cobra.MinimumNArgs(1),
			RunE: checked(func(_ *cobra.Command, args []string, s *store, w *world.World) (*world.Outcome, error) {
				o, err := s.objects.Drain(true, args...)
				if err != nil {
					return nil, err
				}
				return edited(s, w, o), nil
			}),
		}, "wide", "json", "yaml"),
		t.outputs(&cobra.Command{
			Use: "lose NODE...", Short: "Show what losing nodes, all at once, would change", Long: "Show what losing nodes, all at once, would change: their endpoints count as gone, too.\n\n" + marks,
			Example: "  kubectl belfry plan lose n1\n  kubectl belfry plan lose n1 n2 --fail-on lost", Args: cobra.MinimumNArgs(1),
			RunE: checked(func(_ *cobra.Command, args []string, _ *store, w *world.World) (*world.Outcome, error) {
				for _, n := range args {
					if !slices.Contains(w.Nodes(), n) {
						return nil, fmt.Errorf("there is no Node %q", n)
					}
				}
				return w.Settle(args...), nil
			}),
		}, "wide", "json", "yaml"),
		t.outputs(&cobra.Command{
			Use: "delete KIND/NAME", Short: "Show what deleting an object would change", Long: "Show what deleting an object would change. A pool in use stays until no Service holds an address of it.\n\n" + marks,
			Example: "  kubectl belfry plan delete pool/edge\n  kubectl belfry plan delete service/web/shop\n  kubectl belfry plan delete peer/tor1", Args: cobra.ExactArgs(1),
			RunE: checked(func(_ *cobra.Command, args []string, s *store, w *world.World) (*world.Outcome, error) {
				kind, name, ok := strings.Cut(args[0], "/")
				if !ok {
					return nil, fmt.Errorf("%q: want KIND/NAME", args[0])
				}
				o, err := s.objects.Delete(kind, name, t.namespace(), w.Now)
				if err != nil {
					return nil, err
				}
				return edited(s, w, o), nil
			}),
		}, "wide", "json", "yaml"),
	)
	return root
}

// Resources that verbs change.
var (
	services         = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	nodes            = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
	l2advertisements = belfry.WithResource("l2advertisements")
)

// An act is a verb that changes an annotation, once its plan is shown.
type act struct {
	dry, force bool
}

func (a *act) flags(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&a.dry, "dry-run", false, "show the plan and change nothing")
	c.Flags().BoolVar(&a.force, "force", false, "act even if the plan cuts an address")
	return c
}

// carryOut shows a plan and then sets annotations, nil for none.
func (t *tool) carryOut(ctx context.Context, a *act, plan *world.Plan, gvr schema.GroupVersionResource, namespace string, names []string, key string, value *string) error {
	printPlan(t.page(), plan, false)
	switch {
	case a.dry:
		return nil
	case t.dump():
		return fmt.Errorf("--from: a dump cannot be changed; use --dry-run")
	case plan.Totals[world.Refused] > 0:
		return errProblems
	case plan.Totals[world.Cut] > 0 && !a.force:
		fmt.Fprintln(t.ErrOut, "nothing is done: addresses would be cut; --force does it all the same")
		return errProblems
	}
	client, err := t.client()
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]*string{key: value}}})
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := client.Resource(gvr).Namespace(namespace).Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: "kubectl-belfry"}); err != nil {
			return cannotAnnotate(gvr.Resource, name, err)
		}
		fmt.Fprintf(t.Out, "%s/%s annotated\n", strings.TrimSuffix(gvr.Resource, "s"), name)
	}
	return nil
}

func (t *tool) move() *cobra.Command {
	a := &act{}
	return a.flags(&cobra.Command{
		Use:   "move SERVICE NODE",
		Short: "Have a node announce the addresses of a Service by layer 2",
		Long: `Move asks by the annotation belfry.dev/move-to that a node announce the addresses of a Service. It
moves nothing if the node may not, and says why. The successor answers before the leaver stops.`,
		Example: `  kubectl belfry move web/shop n2 --dry-run
  kubectl belfry move shop n2 -n web`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			s, w, err := t.look(c.Context())
			if err != nil {
				return err
			}
			key := lb.ServiceKey{Namespace: t.namespace(), Name: args[0]}
			if ns, name, ok := strings.Cut(args[0], "/"); ok {
				key = lb.ServiceKey{Namespace: ns, Name: name}
			}
			value, err := w.MoveValue(key, args[1])
			if err != nil {
				return err
			}
			o, err := s.objects.Move(key, value)
			if err != nil {
				return err
			}
			changed := *s
			changed.objects = o
			plan := world.Compare(w.Settle(), changed.world(w.Settings, w.Now).Settle())
			return t.carryOut(c.Context(), a, plan, services, key.Namespace, []string{key.Name}, objects.AnnotationMove, &value)
		},
	})
}

func (t *tool) rebalance() *cobra.Command {
	a := &act{}
	return a.flags(&cobra.Command{
		Use:   "rebalance L2ADVERTISEMENT",
		Short: "Share the addresses of an L2Advertisement out evenly",
		Long: `Rebalance asks by the annotation belfry.dev/rebalance that the addresses of an L2Advertisement be
shared out evenly over its nodes: ten in a second, each without a gap.`,
		Example: `  kubectl belfry rebalance edge --dry-run
  kubectl belfry rebalance edge`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			_, w, err := t.look(c.Context())
			if err != nil {
				return err
			}
			plan, err := w.Rebalance(args[0])
			if err != nil {
				return err
			}
			value := w.Now.UTC().Format(time.RFC3339)
			return t.carryOut(c.Context(), a, plan, l2advertisements, "", args, objects.AnnotationRebalance, &value)
		},
	})
}

func (t *tool) drain(drain bool) *cobra.Command {
	a := &act{}
	name, short, verb := "drain", "Take the addresses off nodes, without a gap", "Drain asks by the annotation belfry.dev/drain that nodes announce nothing any more. Their addresses move\nto other nodes first; routers are asked to prefer other nodes before routes are withdrawn."
	value := new("true")
	if !drain {
		name, short, verb, value = "undrain", "Let drained nodes announce again", "Undrain takes the annotation belfry.dev/drain off nodes. What has moved away does not move back.", nil
	}
	return a.flags(&cobra.Command{
		Use: name + " NODE...", Short: short, Long: verb,
		Example: "  kubectl belfry " + name + " n1 --dry-run\n  kubectl belfry " + name + " n1 n2",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, w, err := t.look(c.Context())
			if err != nil {
				return err
			}
			o, err := s.objects.Drain(drain, args...)
			if err != nil {
				return err
			}
			changed := *s
			changed.objects = o
			plan := world.Compare(w.Settle(), changed.world(w.Settings, w.Now).Settle())
			return t.carryOut(c.Context(), a, plan, nodes, "", args, objects.AnnotationDrain, value)
		},
	})
}
