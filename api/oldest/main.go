// Command oldest judges CRDs as the API server of the oldest Kubernetes that
// Belfry supports does: 1.31, whose own validation code it is made of. A newer
// API server estimates the cost of CEL rules more generously, so that a rule
// which it lets through may be one that the oldest refuses.
//
// It is a module of its own, because it needs the libraries of that version.
package main

import (
	"context"
	"fmt"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

func main() {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	refused := false
	for _, file := range os.Args[1:] {
		problems, err := judge(scheme, file)
		if err != nil {
			problems = append(problems, err)
		}
		for _, p := range problems {
			fmt.Fprintf(os.Stderr, "%s: Kubernetes 1.31 refuses it: %v\n", file, p)
			refused = true
		}
	}
	if refused {
		os.Exit(1)
	}
}

// judge returns why a CRD is refused.
func judge(scheme *runtime.Scheme, file string) (problems []error, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var written v1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(text, &written); err != nil {
		return nil, err
	}
	scheme.Default(&written)
	var crd apiextensions.CustomResourceDefinition
	if err := scheme.Convert(&written, &crd, nil); err != nil {
		return nil, err
	}
	for _, p := range validation.ValidateCustomResourceDefinition(context.Background(), &crd) {
		problems = append(problems, p)
	}
	return problems, nil
}
