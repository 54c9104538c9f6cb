package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/belfrylb/belfry/internal/migrate"
	"github.com/belfrylb/belfry/internal/world"
)

func (t *tool) migrate() *cobra.Command {
	root := &cobra.Command{
		Use:     "migrate",
		Short:   "Come from another load balancer",
		Long:    "Migrate shows what it takes to come from another load balancer. It changes nothing.",
		Example: "  kubectl belfry migrate plan metallb",
	}
	root.AddCommand(t.migratePlan())
	return root
}

func (t *tool) migratePlan() *cobra.Command {
	var namespace string
	var names, titles []string
	for _, source := range migrate.Sources {
		names, titles = append(names, source.Name), append(titles, source.Title)
	}
	c := t.outputs(&cobra.Command{
		Use:   "plan " + strings.Join(names, "|"),
		Short: "Write our objects from another's, with each difference and what becomes of each address",
		Long: `Plan reads what another load balancer is configured by and says what would be applied for Belfry to
have the same effect: each field that has no equal and what that means, which Services keep their
addresses, and who would announce them. Belfry need not be installed yet. -o yaml writes the
objects, the differences as comments beside them.

It knows ` + strings.Join(titles[:len(titles)-1], ", ") + " and " + titles[len(titles)-1] + `: MetalLB back to its ConfigMap, Cilium's LB-IPAM, L2
announcements and BGP control plane, kube-vip's cloud provider, PureLB's ServiceGroups.

It reads no Secret. It ends with 1 if an address would not be kept, or would not be announced.`,
		Example: `  kubectl belfry migrate plan metallb
  kubectl belfry migrate plan metallb -o yaml > belfry.yaml
  kubectl belfry migrate plan cilium --from dump.yaml`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: names,
		RunE: func(c *cobra.Command, args []string) error {
			source, _ := migrate.Find(args[0])
			s := &store{uninstalled: true}
			now, err := t.readInto(c.Context(), s, worldKinds)
			if err != nil {
				return err
			}
			origin := migrate.Origin{Namespace: cmp.Or(namespace, source.Namespace)}
			if !t.dump() {
				if err := t.readSource(c.Context(), s, source, origin.Namespace); err != nil {
					return err
				}
			}
			origin.ConfigMaps = s.readable(source)
			for _, o := range s.others {
				if source.Of(o.APIVersion) && source.Reads(o.Kind) {
					origin.Objects = append(origin.Objects, o)
				}
			}
			for _, o := range s.objects.Services {
				if o.Spec.Type == corev1.ServiceTypeLoadBalancer {
					origin.Services = append(origin.Services, migrate.Metadata{Name: o.Name, Namespace: o.Namespace, Annotations: o.Annotations})
				}
			}
			for _, u := range s.unread {
				fmt.Fprintln(t.ErrOut, "warning: cannot read", u)
			}
			if source.Empty(origin) {
				return cannotFind(source, origin.Namespace)
			}
			tr := source.Translate(origin)
			changed := *s
			changed.objects = s.objects.Apply(world.Objects{
				Pools: tr.Pools, L2Advertisements: tr.L2Advertisements, BGPPeers: tr.BGPPeers,
				BGPAdvertisements: tr.BGPAdvertisements, Communities: tr.Communities, BFDProfiles: tr.BFDProfiles,
			}, now)
			after := changed.world(t.settings, now)
			m := &migration{Translation: tr, title: source.Title, Notes: tr.Notes, to: after.Settings.Namespace}
			m.Addresses, m.Others = after.Inherit(after.Settle(), tr.Announcers)
			m.objects()
			for _, f := range after.Findings {
				for _, p := range f.Problems {
					m.Problems = append(m.Problems, fmt.Sprintf("%s/%s: %s: %s", f.Kind, f.Name, p.Field, p.Why))
				}
			}
			m.steps()
			m.annotate()
			if t.output == "yaml" {
				err = m.manifest(t.page())
			} else {
				err = t.print(m, m.print)
			}
			if err == nil && !m.well() {
				err = errProblems
			}
			return err
		},
	}, "json", "yaml")
	c.Flags().StringVar(&namespace, "their-namespace", "", "namespace of the other's installation (default: where it is usually)")
	return c
}

// cannotFind says that nothing of a source is there.
func cannotFind(source migrate.Source, namespace string) error {
	var kinds []string
	if len(source.Groups) > 0 {
		kinds = append(kinds, "no object of "+source.Groups[0]+" that says anything here")
	}
	if source.ConfigMap != "" {
		kinds = append(kinds, fmt.Sprintf("no ConfigMap %q", source.ConfigMap))
	}
	what := strings.Join(kinds, ", and ")
	if source.Namespace == "" {
		return fmt.Errorf("nothing of %s is there: %s", source.Title, what)
	}
	return fmt.Errorf("nothing of %s is in namespace %s: %s. --their-namespace says where else it is", source.Title, namespace, what)
}

// A migration is what it takes to come from another load balancer.
type migration struct {
	*migrate.Translation `json:"-"`
	// Objects are those to apply.
	Objects   []any               `json:"objects"`
	Addresses []world.Inheritance `json:"addresses"`
	// Others count the Services that are left to others, by loadBalancerClass.
	Others map[string]int `json:"others,omitempty"`
	Notes  []migrate.Note `json:"differences"`
	// Problems are what our own objects would be told.
	Problems []string `json:"problems,omitempty"`
	// Steps are what is left to do by hand, with its commands.
	Steps []step `json:"steps"`

	title, to string
}

// A step is something to do by hand.
type step struct {
	Text    string `json:"text"`
	Command string `json:"command,omitempty"`
}

func (m *migration) well() bool {
	return len(m.Problems) == 0 && !slices.ContainsFunc(m.Addresses, func(a world.Inheritance) bool { return a.Why != "" })
}

func (m *migration) steps() {
	m.Steps = []step{}
	for _, s := range m.Secrets {
		text, password := "Copy the password of BGPPeer "+s.Peer+":", fmt.Sprintf("\"$(kubectl -n %s get secret %s -o jsonpath='{.data.password}' | base64 -d)\"", s.Namespace, s.From)
		switch {
		case s.ConfigMap:
			text, password = "Make a Secret of the password of the peer that becomes BGPPeer "+s.Peer+":", "PASSWORD"
		case s.From == "":
			text = "Make a Secret of the password that stands in BGPPeer " + s.Peer + ":"
			password = fmt.Sprintf("\"$(kubectl -n %s get bgppeers.metallb.io %s -o jsonpath='{.spec.password}')\"", s.Namespace, s.Peer)
		}
		m.Steps = append(m.Steps, step{
			text, fmt.Sprintf("kubectl -n %s create secret generic %s --type=kubernetes.io/basic-auth --from-literal=password=%s", m.to, s.Name, password),
		})
	}
}

// annotate lists what Services are annotated with.
func (m *migration) annotate() {
	for i, s := range m.Services {
		text := "Annotate Services with what they ask for:"
		if i > 0 {
			text = ""
		}
		m.Steps = append(m.Steps, step{text, fmt.Sprintf("kubectl -n %s annotate service %s %s=%s", s.Service.Namespace, s.Service.Name, s.Key, quoted(s.Value))})
	}
}

// quoted is a word as a shell reads it.
func quoted(word string) string {
	if strings.ContainsFunc(word, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:/_-", r)
	}) {
		return "'" + strings.ReplaceAll(word, "'", `'"'"'`) + "'"
	}
	return word
}

// objects lists those to apply, without what says nothing in them.
func (m *migration) objects() {
	m.Objects = slices.Concat(bare(m.Pools), bare(m.L2Advertisements), bare(m.Communities), bare(m.BFDProfiles), bare(m.BGPPeers), bare(m.BGPAdvertisements))
}

// bare returns objects as the API server is given them: without status, and without what
// says nothing, so that its defaults hold.
func bare[T any](all []T) (out []any) {
	for _, o := range all {
		body, _ := json.Marshal(o) // types of the API, which can be written
		var is map[string]any
		_ = json.Unmarshal(body, &is)
		delete(is, "status")
		unset(is)
		out = append(out, is)
	}
	return out
}

// manifest writes the objects, with the differences as comments before them all.
func (m *migration) manifest(p *page) error {
	comment := func(text string) {
		for _, l := range wrap(text, width-2) {
			p.line("# %s", l)
		}
	}
	for _, n := range m.Notes {
		comment(where(n) + ": " + n.Text)
	}
	for _, s := range m.Steps {
		if s.Text != "" {
			comment(s.Text)
		}
		p.line("#   %s", s.Command)
	}
	for _, o := range m.Objects {
		text, err := yaml.Marshal(o)
		if err != nil {
			return err
		}
		p.line("---")
		fmt.Fprint(p.w, string(text))
	}
	return nil
}

// unset takes out what says nothing, so that the API server's defaults hold.
func unset(of map[string]any) {
	for name, v := range of {
		switch v := v.(type) {
		case nil:
			delete(of, name)
		case map[string]any:
			unset(v)
		}
	}
}

// where is what a note is about.
func where(n migrate.Note) string { return strings.TrimSuffix(n.Object+" "+n.Field, " ") }

func (m *migration) print(p *page) {
	p.head("Objects")
	var counts []string
	for _, c := range []struct {
		n        int
		one, all string
	}{
		{len(m.Pools), "IPAddressPool", "IPAddressPools"},
		{len(m.L2Advertisements), "L2Advertisement", "L2Advertisements"},
		{len(m.Communities), "Community", "Communities"},
		{len(m.BFDProfiles), "BFDProfile", "BFDProfiles"},
		{len(m.BGPPeers), "BGPPeer", "BGPPeers"},
		{len(m.BGPAdvertisements), "BGPAdvertisement", "BGPAdvertisements"},
	} {
		switch {
		case c.n == 1:
			counts = append(counts, "1 "+c.one)
		case c.n > 1:
			counts = append(counts, fmt.Sprintf("%d %s", c.n, c.all))
		}
	}
	p.wrapped(2, strings.Join(append(counts, "-o yaml writes them"), ", "))
	p.line("")
	kept := 0
	if len(m.Addresses) > 0 {
		p.head("Addresses")
		rows := [][]string{{"SERVICE", "ADDRESS", "KEPT", "BY " + strings.ToUpper(m.title), "BY BELFRY"}}
		for _, a := range m.Addresses {
			keeps, was, will := "no", "?", a.Why
			if a.Kept {
				keeps = "yes"
				kept++
			}
			if len(a.Was) > 0 {
				was = strings.Join(a.Was, " ")
			}
			if a.Will != "" {
				will = a.Will
			}
			rows = append(rows, []string{a.Service, a.Address, keeps, was, will})
		}
		p.table(2, rows, func(row []string) color {
			if row[2] == "no" {
				return red
			}
			return plain
		})
		p.line("")
	}
	for _, class := range slices.Sorted(maps.Keys(m.Others)) {
		of := "without a loadBalancerClass"
		if class != "" {
			of = "of loadBalancerClass " + class
		}
		p.wrapped(2, fmt.Sprintf("Services %s are left to others: %d. Belfry serves one class, which --lb-class says.", of, m.Others[class]))
		p.line("")
	}
	if len(m.Notes) > 0 {
		p.head(fmt.Sprintf("Differences (%d)", len(m.Notes)))
		for _, n := range m.Notes {
			p.wrapped(2, where(n)+": "+n.Text)
		}
		p.line("")
	}
	if len(m.Problems) > 0 {
		p.head(fmt.Sprintf("Problems (%d)", len(m.Problems)))
		for _, b := range m.Problems {
			p.wrapped(2, b)
		}
		p.line("")
	}
	if len(m.Steps) > 0 {
		p.head("To do by hand")
		for _, s := range m.Steps {
			if s.Text != "" {
				p.wrapped(2, s.Text)
			}
			p.line("    %s", s.Command)
		}
		p.line("")
	}
	p.line("%s", p.paint(bold, fmt.Sprintf("Plan: %d of %d addresses are kept.", kept, len(m.Addresses))))
}

// addOther takes an object of another load balancer.
func (s *store) addOther(apiVersion, kind string, body []byte) error {
	var o migrate.Object
	if err := json.Unmarshal(body, &o); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	o.APIVersion, o.Kind = apiVersion, kind
	s.others = append(s.others, o)
	return nil
}

// readable are the ConfigMaps by the name of a source's, their values as JSON. Values that
// are no YAML are left out.
func (s *store) readable(source migrate.Source) (out []migrate.ConfigMap) {
	for _, c := range s.configMaps {
		if c.Name != source.ConfigMap {
			continue
		}
		made := migrate.ConfigMap{Namespace: c.Namespace, Name: c.Name, Data: map[string]json.RawMessage{}}
		for key, text := range c.Data {
			body, err := yaml.YAMLToJSON([]byte(text))
			if err != nil {
				s.unread = append(s.unread, fmt.Sprintf("ConfigMap %s/%s, key %s: %v", c.Namespace, c.Name, key, err))
				continue
			}
			made.Data[key] = body
		}
		out = append(out, made)
	}
	return out
}

// readSource reads all that the API server has of a source: each kind that says anything,
// in every version that is served, and the ConfigMap.
func (t *tool) readSource(ctx context.Context, s *store, source migrate.Source, namespace string) error {
	client, err := t.reader()
	if err != nil {
		return err
	}
	for _, group := range source.Groups {
		if err := s.readGroup(ctx, client, source, group); err != nil {
			return err
		}
	}
	if source.ConfigMap == "" {
		return nil
	}
	body, err := get(ctx, client, "/api/v1/namespaces/"+namespace+"/configmaps/"+source.ConfigMap)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case apierrors.IsForbidden(err):
		s.unread = append(s.unread, "configmaps: "+err.Error())
		return nil
	case err != nil:
		return fmt.Errorf("read ConfigMap %s/%s: %w", namespace, source.ConfigMap, err)
	}
	var c corev1.ConfigMap
	if err := json.Unmarshal(body, &c); err != nil {
		return fmt.Errorf("read ConfigMap %s/%s: %w", namespace, source.ConfigMap, err)
	}
	s.configMaps = append(s.configMaps, &c)
	return nil
}

// readGroup reads the objects of an API group that is there.
func (s *store) readGroup(ctx context.Context, client rest.Interface, source migrate.Source, group string) error {
	var g metav1.APIGroup
	body, err := get(ctx, client, "/apis/"+group)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(body, &g)
	}
	if err != nil {
		return fmt.Errorf("read the API group %s: %w", group, err)
	}
	for _, v := range g.Versions {
		path := "/apis/" + v.GroupVersion
		var list metav1.APIResourceList
		if body, err = get(ctx, client, path); err == nil {
			err = json.Unmarshal(body, &list)
		}
		if err != nil {
			return fmt.Errorf("read the resources of %s: %w", v.GroupVersion, err)
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "list") || !source.Reads(r.Kind) {
				continue
			}
			_, err := pages(ctx, client, path+"/"+r.Name, func(body []byte) error { return s.addOther(v.GroupVersion, r.Kind, body) })
			switch {
			case apierrors.IsForbidden(err):
				s.unread = append(s.unread, r.Name+"."+group+": "+err.Error())
			case err != nil:
				return fmt.Errorf("read %s.%s: %w", r.Name, group, err)
			}
		}
	}
	return nil
}
