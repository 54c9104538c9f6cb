package cli

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/belfrylb/belfry/internal/objects"
)

// logMost bounds what is taken of the log of one container, in bytes.
const logMost = 16 << 20

// objectsDir is where the objects are in a bug report: what --from reads of one.
const objectsDir = "objects"

func (t *tool) bugReport(version string) *cobra.Command {
	var (
		file      string
		anonymize bool
		since     time.Duration
	)
	c := &cobra.Command{
		Use:   "bug-report",
		Short: "Write what is needed to find a fault into one archive",
		Long: `Bug-report writes a tar.gz of the objects that Belfry decides by, what its speakers report, its
Events, the Pods, logs and metrics of its programs, and versions. Every command reads it by --from.
Metrics take the right to forward ports of the Pods (create pods/portforward); what cannot be had is
left out, and said.

It reads no Secret. Of workloads it keeps names, images and resources; of annotations only those
that Belfry reads; of ConfigMaps only what doctor looks at. With --anonymize it replaces names,
label values, hardware addresses and the networks of IP addresses, each by the same wherever it is:
the last 16 bits of IPv4 addresses and the last 80 of IPv6 addresses stay, so that ranges and subnets
are what they were. AS numbers and UIDs stay as well.`,
		Example: `  kubectl belfry bug-report
  kubectl belfry bug-report --anonymize --since 1h --file report.tar.gz
  kubectl belfry status --from report.tar.gz`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if t.dump() {
				return fmt.Errorf("--from: a bug report is of a cluster")
			}
			r, err := t.collect(c.Context(), version, since)
			if err != nil {
				return err
			}
			if anonymize {
				key := make([]byte, 32)
				if _, err := rand.Read(key); err != nil {
					return err
				}
				r.anonymize(key)
			}
			name := cmp.Or(file, "belfry-bug-report-"+r.at.UTC().Format("20060102-150405")+".tar.gz")
			if name == "-" {
				return r.write(t.Out)
			}
			return t.save(r, name)
		},
	}
	c.Flags().StringVar(&file, "file", "", "where to write it (- is standard output; default: belfry-bug-report-TIME.tar.gz)")
	c.Flags().BoolVar(&anonymize, "anonymize", false, "replace names and addresses, each by the same wherever it is")
	c.Flags().DurationVar(&since, "since", 24*time.Hour, "how much of the logs, up to now (0: all that there is)")
	return c
}

// save writes a report to a file that is not there yet.
func (t *tool) save(r *bugReport, name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(r.write(f), f.Close()); err != nil {
		return err
	}
	fmt.Fprintf(t.Out, "%s has been written: %d files. Look through it before you give it away.\n", name, len(r.files()))
	for _, note := range r.notes {
		fmt.Fprintln(t.ErrOut, "warning: not in it:", note)
	}
	return nil
}

// A bugReport is what goes into the archive.
type bugReport struct {
	at      time.Time
	version string
	server  string
	// lists are the objects of each kind, by resource; logs are by file, and metrics by
	// Pod.
	lists   map[string]list
	logs    map[string][]byte
	metrics map[string][]byte
	pods    []*corev1.Pod
	// notes say what is not in it, and why.
	notes []string
}

// A list is what the API server answers to one.
type list struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Items      []any  `json:"items"`
}

// collect reads all that a report consists of. Only what all commands need has to be
// there.
func (t *tool) collect(ctx context.Context, version string, since time.Duration) (*bugReport, error) {
	s, now, err := t.read(ctx, checkedKinds)
	if err != nil {
		return nil, err
	}
	client, err := t.reader()
	if err != nil {
		return nil, err
	}
	namespace := s.world(t.settings, now).Settings.Namespace
	r := &bugReport{at: now, version: version, lists: map[string]list{}, logs: map[string][]byte{}, notes: s.unread}
	note := func(what string, err error) {
		if err != nil {
			r.notes = append(r.notes, what+": "+inWords(err))
		}
	}
	// Ours, and what happened to the Pods of the programs.
	events := "/apis/" + eventsv1.SchemeGroupVersion.String()
	enter := kinds[kindOf("events")].put
	_, err = pages(ctx, client, events+"/events", func(body []byte) error { return enter(s, body) }, "fieldSelector", "reportingController="+reporter)
	note("events", err)
	_, err = pages(ctx, client, events+"/namespaces/"+namespace+"/events", func(body []byte) error { return enter(s, body) })
	note("events of the Pods", err)
	note("pods and logs", r.programs(ctx, client, namespace, since))
	config, err := t.access()
	if err != nil {
		return nil, err
	}
	figures := readFigures(ctx, r.pods, forwarded(config, client, namespace))
	r.metrics, r.notes = figures.texts, append(r.notes, figures.notes()...)
	body, err := get(ctx, client, "/version")
	note("version of the API server", err)
	var is struct{ GitVersion string }
	if json.Unmarshal(body, &is) == nil {
		r.server = is.GitVersion
	}
	r.take(s, namespace)
	return r, nil
}

// take takes the objects that were read, reduced.
func (r *bugReport) take(s *store, namespace string) {
	for _, k := range kinds {
		l := list{APIVersion: k.GroupVersion().String(), Kind: k.Kind + "List"}
		for _, o := range k.all(s) {
			if keep(o, namespace) {
				l.Items = append(l.Items, tree(o))
			}
		}
		r.lists[k.resource] = l
	}
}

// programs takes the Pods of the installation and their logs.
func (r *bugReport) programs(ctx context.Context, client rest.Interface, namespace string, since time.Duration) error {
	at := "/api/v1/namespaces/" + namespace + "/pods"
	l := list{APIVersion: "v1", Kind: "PodList"}
	_, err := pages(ctx, client, at, func(body []byte) error {
		p := new(corev1.Pod)
		if err := json.Unmarshal(body, p); err != nil {
			return err
		}
		keep(p, namespace)
		l.Items = append(l.Items, tree(p))
		r.pods = append(r.pods, p)
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			for _, previous := range []bool{false, true} {
				if previous && c.RestartCount == 0 {
					continue
				}
				name := c.Name + ".log"
				parameters := []string{"container", c.Name, "limitBytes", fmt.Sprint(logMost)}
				if since > 0 {
					parameters = append(parameters, "sinceSeconds", fmt.Sprint(max(1, int64(since.Seconds()))))
				}
				if previous {
					name, parameters = c.Name+".previous.log", append(parameters, "previous", "true")
				}
				text, err := get(ctx, client, at+"/"+p.Name+"/log", parameters...)
				if err != nil {
					r.notes = append(r.notes, fmt.Sprintf("log of %s/%s: %s", p.Name, name, inWords(err)))
					continue
				}
				r.logs[p.Name+"/"+name] = text
			}
		}
		return nil
	})
	r.lists["pods"] = l
	return err
}

// keep reduces an object to what decisions and checks depend on, and reports whether
// anything is left. What it does not name is not kept.
func keep(o metav1.Object, namespace string) bool {
	o.SetManagedFields(nil)
	annotations := maps.Clone(o.GetAnnotations())
	maps.DeleteFunc(annotations, func(key, _ string) bool { return !objects.Reads(key) })
	o.SetAnnotations(annotations)
	switch o := o.(type) {
	case *corev1.Node:
		o.Status.Images, o.Status.VolumesAttached, o.Status.VolumesInUse = nil, nil, nil
	case *appsv1.DaemonSet:
		*o = appsv1.DaemonSet{ObjectMeta: o.ObjectMeta, Spec: appsv1.DaemonSetSpec{Template: keepPod(o.Spec.Template, o.Namespace == namespace)}, Status: o.Status}
	case *appsv1.Deployment:
		*o = appsv1.Deployment{ObjectMeta: o.ObjectMeta, Spec: appsv1.DeploymentSpec{Template: keepPod(o.Spec.Template, o.Namespace == namespace)}, Status: o.Status}
	case *corev1.Pod:
		*o = corev1.Pod{ObjectMeta: o.ObjectMeta, Spec: corev1.PodSpec{NodeName: o.Spec.NodeName, Containers: keepContainers(o.Spec.Containers, true)}, Status: o.Status}
	case *corev1.ConfigMap:
		of := examined[o.Name]
		data := maps.Clone(o.Data)
		maps.DeleteFunc(data, func(key, _ string) bool { return !slices.Contains(of, key) })
		if text, is := data[proxyConfig]; is {
			data[proxyConfig] = keepProxyConfig(text)
		}
		*o = corev1.ConfigMap{ObjectMeta: o.ObjectMeta, Data: data}
		return len(data) > 0
	}
	return true
}

func keepPod(t corev1.PodTemplateSpec, ours bool) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: keepContainers(t.Spec.Containers, ours)}}
}

// keepContainers keeps the arguments of our own programs alone.
func keepContainers(all []corev1.Container, ours bool) (out []corev1.Container) {
	for _, c := range all {
		is := corev1.Container{Name: c.Name, Image: c.Image, Resources: c.Resources}
		if ours {
			is.Args = c.Args
		}
		out = append(out, is)
	}
	return out
}

// keepProxyConfig keeps of kube-proxy's configuration what doctor reads.
func keepProxyConfig(text string) string {
	settings, err := readProxyConfig(text)
	if err != nil {
		return ""
	}
	body, _ := yaml.Marshal(settings)
	return string(body)
}

// tree is an object as maps and lists.
func tree(o any) (out any) {
	body, err := json.Marshal(o)
	if err == nil {
		err = json.Unmarshal(body, &out)
	}
	if err != nil {
		panic(err) // it has just been read
	}
	return out
}

// files are the contents of the archive, by name.
func (r *bugReport) files() map[string][]byte {
	all := map[string][]byte{}
	for resource, l := range r.lists {
		body, err := yaml.Marshal(l)
		if err != nil {
			panic(err)
		}
		all[objectsDir+"/"+resource+".yaml"] = body
	}
	for name, text := range r.logs {
		all["logs/"+name] = text
	}
	for pod, text := range r.metrics {
		all["metrics/"+pod+".txt"] = text
	}
	var about bytes.Buffer
	fmt.Fprintf(&about, "kubectl belfry %s\nAPI server %s\nat %s\n", r.version, cmp.Or(r.server, "unknown"), r.at.UTC().Format(time.RFC3339))
	for _, note := range r.notes {
		fmt.Fprintf(&about, "not in it: %s\n", note)
	}
	all["about.txt"] = about.Bytes()
	return all
}

// write writes the archive.
func (r *bugReport) write(w io.Writer) error {
	zip := gzip.NewWriter(w)
	out := tar.NewWriter(zip)
	files := r.files()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: "belfry-bug-report/" + name, Mode: 0o600, Size: int64(len(files[name])), ModTime: r.at, Typeflag: tar.TypeReg}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := out.Write(files[name]); err != nil {
			return err
		}
	}
	return errors.Join(out.Close(), zip.Close())
}

// readReport reads the objects of a bug report.
func readReport(s *store, name string, r io.Reader) error {
	zip, err := gzip.NewReader(bufio.NewReader(r))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	found := false
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if dir, file := path.Split(h.Name); path.Base(dir) != objectsDir || !strings.HasSuffix(file, ".yaml") {
			continue
		}
		found = true
		if err := readDocuments(s, name+": "+h.Name, in); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("%s is no bug report: it has no %s", name, objectsDir)
	}
	return nil
}
