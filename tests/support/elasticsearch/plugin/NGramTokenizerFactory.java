package instachat.tests;

import org.apache.lucene.analysis.Tokenizer;
import org.apache.lucene.analysis.ngram.NGramTokenizer;
import org.elasticsearch.plugin.Inject;
import org.elasticsearch.plugin.NamedComponent;
import org.elasticsearch.plugin.analysis.TokenizerFactory;
import org.elasticsearch.plugin.settings.AnalysisSettings;
import org.elasticsearch.plugin.settings.IntSetting;

/**
 * The `ngram` tokenizer of a full Elasticsearch, which the zip for integration tests lacks. Like that one
 * without `token_chars` it cuts grams from all characters, counted in code points.
 */
@NamedComponent("ngram")
public class NGramTokenizerFactory implements TokenizerFactory {
    /** The settings by the names that a full Elasticsearch gives them. */
    @AnalysisSettings
    public interface Sizes {
        @IntSetting(path = "min_gram", defaultValue = 1)
        int minGram();

        @IntSetting(path = "max_gram", defaultValue = 2)
        int maxGram();
    }

    private final Sizes sizes;

    @Inject
    public NGramTokenizerFactory(Sizes sizes) {
        this.sizes = sizes;
    }

    @Override
    public Tokenizer create() {
        return new NGramTokenizer(sizes.minGram(), sizes.maxGram());
    }
}
