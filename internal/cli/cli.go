package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/world"
)

// Exit codes.
const (
	Well       = 0
	Problems   = 1
	CannotLook = 2
)

// errProblems ends a command that has printed what is wrong.
var errProblems = errors.New("there are problems")

// A tool is what all commands share.
type tool struct {
	genericiooptions.IOStreams
	// where says which files kubeconfigs are in, and override what flags say instead.
	where    *clientcmd.ClientConfigLoadingRules
	override *clientcmd.ConfigOverrides
	from     []string
	output   string
	settings world.Settings
	// terminal is set when the output goes to one.
	terminal, colors bool
	// transport carries what is asked of the API server; nil: the network.
	transport http.RoundTripper
	// now is the clock.
	now func() time.Time
}

// Run runs the command line and returns the exit code.
func Run(ctx context.Context, args []string, streams genericiooptions.IOStreams, terminal bool, version string) int {
	root := NewCommand(streams, terminal, version)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return Well
	case errors.Is(err, errProblems):
		return Problems
	default:
		fmt.Fprintln(streams.ErrOut, "error:", inWords(err))
		return CannotLook
	}
}

// NewCommand returns kubectl belfry. Terminal is set when the output goes to one.
func NewCommand(streams genericiooptions.IOStreams, terminal bool, version string) *cobra.Command {
	t := &tool{
		IOStreams: streams, now: time.Now,
		where: clientcmd.NewDefaultClientConfigLoadingRules(), override: &clientcmd.ConfigOverrides{ClusterDefaults: clientcmd.ClusterDefaults},
		terminal: terminal, colors: terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
	}
	root := &cobra.Command{
		Use:   "kubectl-belfry",
		Short: "See who announces which address, why not, and what an edit would change",
		Long: `kubectl belfry says who announces which address of a Service, why a node does not, and what an
edit, a drained node or a lost one would change. It runs the decisions of Belfry itself over what
the API server says, or over a dump of objects (--from).

Exit codes: 0 all is well, 1 there are problems, 2 it could not look.`,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl belfry"},
		Version:       version,
		SilenceErrors: true, SilenceUsage: true,
	}
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	root.SetIn(streams.In)
	flags := root.PersistentFlags()
	// The flags of kubectl, of which few are of interest here.
	flags.StringVar(&t.where.ExplicitPath, "kubeconfig", "", "kubeconfig file to use")
	clientcmd.BindOverrideFlags(t.override, flags, clientcmd.RecommendedConfigOverrideFlags(""))
	flags.VisitAll(func(f *pflag.Flag) {
		f.Hidden = !slices.Contains([]string{"kubeconfig", "proxy-url", clientcmd.FlagContext, clientcmd.FlagNamespace}, f.Name)
	})
	flags.StringArrayVar(&t.from, "from", nil, "read objects from this file or directory of YAML and JSON, or from a bug report, instead of a cluster (- is standard input); of several, later ones replace objects of earlier ones")
	flags.StringVar(&t.settings.Namespace, "belfry-namespace", "", "namespace of the installation (default: what its speakers report, or belfry-system)")
	root.AddCommand(t.status(), t.explain(), t.plan(), t.doctor(), t.probe(), t.move(), t.rebalance(), t.drain(true), t.drain(false), t.events(), t.watch(), t.migrate(), t.bugReport(version))
	return root
}

// page returns where text goes.
func (t *tool) page() *page { return &page{t.Out, t.colors} }

// outputs adds the flag -o.
func (t *tool) outputs(c *cobra.Command, formats ...string) *cobra.Command {
	c.Flags().StringVarP(&t.output, "output", "o", "", "output format: "+strings.Join(formats, ", "))
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if t.output != "" && !slices.Contains(formats, t.output) {
			return fmt.Errorf("--output %q: want one of %s", t.output, strings.Join(formats, ", "))
		}
		return run(c, args)
	}
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// print writes a value as JSON or YAML, or else as text.
func (t *tool) print(value any, text func(p *page)) error {
	switch t.output {
	case "json":
		enc := json.NewEncoder(t.Out)
		enc.SetIndent("", "  ")
		return enc.Encode(value)
	case "yaml":
		body, err := yaml.Marshal(value)
		if err != nil {
			return err
		}
		_, err = t.Out.Write(body)
		return err
	default:
		text(t.page())
		return nil
	}
}

// kubeconfig is what files and flags say together.
func (t *tool) kubeconfig() clientcmd.ClientConfig {
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(t.where, t.override)
}

// access is how the cluster is reached. Commands ask in bursts and end.
func (t *tool) access() (*rest.Config, error) {
	config, err := t.kubeconfig().ClientConfig()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 50, 100
	if t.transport != nil {
		config.Transport = t.transport
	}
	return config, nil
}

// client returns a client of the cluster.
func (t *tool) client() (dynamic.Interface, error) {
	config, err := t.access()
	if err != nil {
		return nil, err
	}
	return dynamic.NewForConfig(config)
}

// reader returns what reads the answers of the API server as they come.
func (t *tool) reader() (rest.Interface, error) {
	config, err := t.access()
	if err != nil {
		return nil, err
	}
	status := runtime.NewScheme() // all that is taken from its codecs: what errors come as
	metav1.AddToGroupVersion(status, schema.GroupVersion{Version: "v1"})
	config.NegotiatedSerializer = serializer.NewCodecFactory(status).WithoutConversion()
	return rest.UnversionedRESTClientFor(config)
}

// dump reports whether a dump is read instead of a cluster.
func (t *tool) dump() bool { return len(t.from) > 0 }

// namespace is that of Services that are named without one.
func (t *tool) namespace() string {
	namespace, _, err := t.kubeconfig().Namespace()
	if err != nil || t.dump() && t.override.Context.Namespace == "" {
		return metav1.NamespaceDefault
	}
	return namespace
}

// checkedKinds are those that doctor reads, worldKinds those that all others do.
func checkedKinds(k kind) bool { return k.resource != "events" }

func worldKinds(k kind) bool {
	return checkedKinds(k) && !slices.Contains([]string{"daemonsets", "deployments", "configmaps"}, k.resource)
}

// read reads the cluster, or the dump.
func (t *tool) read(ctx context.Context, which func(kind) bool) (*store, time.Time, error) {
	s := &store{}
	now, err := t.readInto(ctx, s, which)
	return s, now, err
}

// readInto does so into a store.
func (t *tool) readInto(ctx context.Context, s *store, which func(kind) bool) (time.Time, error) {
	if t.dump() {
		for _, path := range t.from {
			if err := readFiles(s, path, t.In); err != nil {
				return time.Time{}, err
			}
		}
		return s.moment(), nil
	}
	client, err := t.reader()
	if err != nil {
		return time.Time{}, err
	}
	if err := readCluster(ctx, s, client, t.installedIn(), which); err != nil {
		return time.Time{}, err
	}
	return t.now(), nil
}

// installedIn is the namespace of the installation as far as it is known before anything
// is read.
func (t *tool) installedIn() string { return cmp.Or(t.settings.Namespace, objects.DefaultNamespace) }

// look reads the world.
func (t *tool) look(ctx context.Context) (*store, *world.World, error) {
	s, now, err := t.read(ctx, worldKinds)
	if err != nil {
		return nil, nil, err
	}
	for _, u := range s.unread {
		fmt.Fprintln(t.ErrOut, "warning: cannot read", u)
	}
	return s, s.world(t.settings, now), nil
}

// readEdits reads what is to be applied.
func readEdits(paths []string, stdin io.Reader) (world.Objects, error) {
	s := &store{}
	for _, p := range paths {
		if err := readFiles(s, p, stdin); err != nil {
			return world.Objects{}, err
		}
	}
	return s.objects, nil
}
