"""English to learn word vectors from: the docstrings of installed libraries, a text file, or the Stanford Sentiment Treebank.

    corpus = docstrings()                      # numpy, scipy, torch, matplotlib, scikit-learn, the standard library
    corpus = text_file('book.txt')
    corpus = treebank('stanfordSentimentTreebank')
    corpus.sentences[0], corpus.sha256
    labelled = labelled_docstrings()           # or labelled_file('reviews.tsv'): sentences with a label, to tell apart
    labelled.sentences[0], labelled.labels[0]

The rule: text is lowercase; a sentence ends at a full stop, question or exclamation mark, colon or semicolon before white
space, or at a blank line (where a file has a text a line, that is one); what white space separates is a word if nothing but
letters, with hyphens or apostrophes between them, is left once the punctuation around it is gone; a sentence has two words at
least. So identifiers (`n_samples`), numbers and formulas drop out, and a window over what is left reaches across them.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import platform
import re
import sysconfig
import warnings
from pathlib import Path
from typing import NamedTuple

import joblib

LIBRARIES = {'python': None, 'numpy': 'numpy', 'scipy': 'scipy', 'torch': 'torch', 'matplotlib': 'matplotlib',
             'sklearn': 'scikit-learn'}  # module -> distribution; python is the standard library
# Words, or parts of words with a hyphen or an apostrophe in them, that give a library away:
NAMES = {'python', 'cpython', 'numpy', 'np', 'scipy', 'torch', 'pytorch', 'aten', 'matplotlib', 'mpl', 'pyplot', 'plt',
         'sklearn', 'scikit'}
LEFT_OUT = {'test', 'tests', 'testing', 'site-packages', 'dist-packages', 'idlelib', 'lib2to3'}
SENTENCE_END = re.compile(r'[.?!:;]+[)\]"\'`]*\s|\n\s*\n')
LONGEST = 1000  # words of a sentence, so that a text without punctuation is one too
WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
AROUND = '.,;:?!()[]{}<>"\'`*=|/\\-–—~“”‘’'
ROLE = re.compile(r':[\w:]+:(?=`)')
UNDERLINE = re.compile(r'\s*[=\-~^"*#+|]{3,}[=\-~^"*#+| ]*$')


class Corpus(NamedTuple):
    name: str
    sentences: list   # of lists of str, each two words or more
    sha256: str       # of the words, one sentence a line
    sources: dict     # library -> version, or file -> sha256 of its bytes


class Labelled(NamedTuple):
    name: str
    sentences: list   # of tuples of str; no two are equal
    labels: list      # of str, one each
    sha256: str       # of lines label, tab, sentence
    sources: dict     # as of Corpus


# ---------------------------------------------------------------------------------------------- docstrings

def docstrings(max_words=None, jobs=1, libraries=tuple(LIBRARIES)):
    """The docstrings of `libraries`, keys of LIBRARIES, where they are installed; of equal sentences the first.

    They are read from the .py files with `ast`, in the order of libraries and sorted paths, and nothing is imported. Private
    folders, tests and the like (LEFT_OUT) are left out. With `max_words`, sentences are left out evenly until
    so many words remain. The same installation gives the same corpus. `jobs` processes read at a time.
    """
    texts, versions = texts_of(libraries, jobs)
    different = dict.fromkeys(text for group in texts.values() for text in group)  # a dictionary keeps the order
    sentences = dict.fromkeys(tuple(sentence) for text in different for sentence in split(without_code(text)))
    return make('docstrings', thinned(list(map(list, sentences)), max_words), versions)


def labelled_docstrings(jobs=1, libraries=tuple(LIBRARIES), shortest=2, longest=LONGEST):
    """The sentences of `docstrings` of `shortest` to `longest` words, labelled with their library.

    Sentences that name one of the libraries are left out, and as in `labelled_file` those that several libraries share.
    """
    texts, versions = texts_of(libraries, jobs)
    pairs = [(library, tuple(sentence)) for library, group in texts.items() for text in dict.fromkeys(group)
             for sentence in split(without_code(text))
             if shortest <= len(sentence) <= longest and not names_a_library(sentence)]
    return make_labelled('docstrings', pairs, versions)


def names_a_library(sentence):
    return any(part in NAMES for word in sentence for part in re.split("[-']", word))


def texts_of(libraries, jobs):
    """({library: its docstrings}, {distribution: version}) of the libraries that are installed."""
    folders, versions = {}, {}
    for module in libraries:
        if module == 'python':
            folders[module] = Path(sysconfig.get_path('stdlib'))
            versions[module] = platform.python_version()
        elif (spec := importlib.util.find_spec(module)) is not None:
            folders[module] = Path(spec.origin).parent
            versions[LIBRARIES[module]] = importlib.metadata.version(LIBRARIES[module])
    paths = [(module, path) for module, folder in folders.items() for path in sorted(folder.rglob('*.py'))
             if not any(part in LEFT_OUT or part.startswith('_') for part in path.relative_to(folder).parts[:-1])]
    found = joblib.Parallel(n_jobs=jobs)(joblib.delayed(docstrings_of)(path) for _, path in paths)
    texts = {module: [] for module in folders}
    for (module, _), group in zip(paths, found):
        texts[module] += group
    return texts, versions


def docstrings_of(path):
    """The docstrings in a module's source; none, where it is in another version of the language."""
    try:
        with warnings.catch_warnings(action='ignore'):  # of escapes in somebody's strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    return [text for node in definitions(tree) if (text := ast.get_docstring(node))]


def definitions(node):
    """`node` and the modules, classes and functions in it, in their order. ast.walk would visit every expression too."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.excepthandler)):
            yield from definitions(child)


def without_code(text):
    """`text` without doctests, without what is indented below a line that ends in '::' or begins with '.. ', without roles."""
    kept, block, doctest = [], None, False
    for line in text.splitlines():
        bare = line.lstrip()
        indent = len(line) - len(bare)
        if block is not None and bare and indent <= block:
            block = None
        doctest = bool(bare) and (doctest or bare.startswith('>>>'))  # up to a blank line: its output belongs to it
        if block is None and (bare.startswith('.. ') or bare.endswith('::')):
            block = indent
        kept.append('' if doctest or block is not None or UNDERLINE.match(line) else line)
    return ROLE.sub('', '\n'.join(kept))


def thinned(sentences, max_words):
    """Of `sentences`, evenly, as many as hold `max_words` words; all for None."""
    total = sum(map(len, sentences))
    if max_words is None or total <= max_words:
        return sentences
    kept, seen, taken = [], 0, 0
    for sentence in sentences:
        seen += len(sentence)
        if (taken + len(sentence)) * total <= max_words * seen:
            kept.append(sentence)
            taken += len(sentence)
    return kept


# ---------------------------------------------------------------------------------------------- files

def text_file(path, max_words=None):
    """A file of English in UTF-8. Raises FileNotFoundError or ValueError with one sentence that names it."""
    return make(Path(path).name, thinned(split(read(path, 'a text file')), max_words), path)


def treebank(folder, max_words=None):
    """datasetSentences.txt of the Stanford Sentiment Treebank, a line a sentence, brackets written as -LRB- and -RRB-."""
    path = Path(folder) / 'datasetSentences.txt'
    header, *lines = read(path, "the Stanford Sentiment Treebank's").rstrip().split('\n')
    rows = [line.split('\t') for line in lines if line]
    if header.split('\t') != ['sentence_index', 'sentence'] or not all(len(row) == 2 and row[0].isdecimal() for row in rows):
        raise ValueError(f"{path}: not the Stanford Sentiment Treebank's, expected a line 'sentence_index<tab>sentence' and "
                         f"then a number, a tab and a sentence on each line")
    texts = (re.sub('-[LR]RB-', ' ', once_encoded(sentence)) for _, sentence in rows)
    sentences = [words for text in texts if len(words := words_of(text)) > 1]
    return make('Stanford Sentiment Treebank', thinned(sentences, max_words), path)


def once_encoded(text):
    """`text`, of which the published file has some encoded twice."""
    try:
        return text.encode('latin-1').decode('utf-8')
    except UnicodeError:
        return text


def labelled_file(path, longest=None):
    """A file of lines label, tab, text in UTF-8, each text one sentence of its first `longest` words.

    Of equal sentences the first is kept, and none if their labels differ: else one could be in two classes, or in training
    and test. A text without a word is left out. Raises FileNotFoundError or ValueError with one sentence that names the file.
    """
    pairs = []
    for number, line in enumerate(read(path, 'lines of a label, a tab and a text').split('\n'), 1):
        label, tab, text = line.partition('\t')
        if not line.strip():
            continue
        if not (tab and label.strip()):
            raise ValueError(f'{path}: line {number} is no label, tab and text')
        if words := words_of(text):
            pairs.append((label.strip(), tuple(words[:longest])))
    return make_labelled(Path(path).name, pairs, {Path(path).name: hashlib.sha256(Path(path).read_bytes()).hexdigest()})


def read(path, expected):
    try:
        return Path(path).read_bytes().decode('utf-8-sig').replace('\r\n', '\n')
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file, expected {expected}') from None
    except OSError as error:
        raise OSError(f'{path}: could not be read ({error.strerror}), expected {expected}') from None
    except UnicodeDecodeError:
        raise ValueError(f'{path}: not UTF-8, expected {expected} in it') from None


# ---------------------------------------------------------------------------------------------- words

def split(text):
    """The sentences of `text`, lists of words; one of more than LONGEST is cut."""
    found = (words_of(part) for part in SENTENCE_END.split(text))
    cut = (words[k:k + LONGEST] for words in found for k in range(0, len(words), LONGEST))
    return [words for words in cut if len(words) > 1]


def words_of(text):
    bare = (part.strip(AROUND) for part in text.lower().replace('’', "'").split())
    return [word for word in bare if WORD.fullmatch(word)]


def make(name, sentences, sources):
    """`sources` is a dictionary, or the path of the one file."""
    if not sentences:
        raise ValueError(f'{sources if name != "docstrings" else name}: no sentence of two words, expected English')
    if not isinstance(sources, dict):
        sources = {Path(sources).name: hashlib.sha256(Path(sources).read_bytes()).hexdigest()}
    digest = hashlib.sha256('\n'.join(map(' '.join, sentences)).encode()).hexdigest()
    return Corpus(name, sentences, digest, sources)


def make_labelled(name, pairs, sources):
    """A Labelled of (label, sentence) pairs, without the sentences that have several labels."""
    label_of = {}
    for label, sentence in pairs:
        if label_of.setdefault(sentence, label) != label:
            label_of[sentence] = None
    kept = [(label, sentence) for sentence, label in label_of.items() if label is not None]
    if len({label for label, _ in kept}) < 2:
        raise ValueError(f'{name}: sentences of {len({label for label, _ in kept})} labels, expected at least 2')
    digest = hashlib.sha256('\n'.join(f'{label}\t{" ".join(sentence)}' for label, sentence in kept).encode()).hexdigest()
    return Labelled(name, [sentence for _, sentence in kept], [label for label, _ in kept], digest, sources)
