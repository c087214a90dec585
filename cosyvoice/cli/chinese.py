"""Chinese that wetext reads wrongly, written so that it reads it right: lists, money, codes, ranges, dots."""

import re
import unicodedata
from collections.abc import Callable

Match = re.Match[str]

# No \b and no \w: to Python a Chinese character is a letter too.
_NUMBER = r"(?<![\d.])\d+(?:\.\d+)?"
_DIGITS = str.maketrans("0123456789", "零一二三四五六七八九")
_CODE_DIGITS = str.maketrans("0123456789", "零幺二三四五六七八九")  # as wetext reads a mobile number

# Words after which a long number is read digit by digit
_CODE = (
    "身份证|卡号|[账帐]号|[账帐]户|QQ群?号|微信号|(?:验证|校验|动态|激活|邀请|取件|提货|兑换|识别)码|密码|口令|邮编|邮政编码|"
    "订单号|订单编号|运单号|快递单?号|单号|流水号|学号|工号|编号|房间号|房号|会员号|发票号|护照号|准考证号|合同号|税号|序列号|车牌号?|航班号|会议号|会议ID|"
    "股票代码|基金代码|手机号|电话|座机|热线|传真|拨打|致电"
)
# What follows a number that is an amount and no code
_COUNTED = (
    "年月日时点分秒天周个人次元块角毛条位部台名万亿千百多余岁米斤克度倍届款张份步架通家只件套本辆页种字公副场篇亩毫"
    "到至以左美欧港日英%‰"
)

_MONEY = {
    **dict.fromkeys(["¥", "￥", "RMB", "CNY"], "元"),
    **dict.fromkeys(["$", "US$", "USD"], "美元"),
    **dict.fromkeys(["HK$", "HKD"], "港元"),
    **{"NT$": "新台币", "A$": "澳元", "AU$": "澳元", "C$": "加元", "S$": "新加坡元", "JPY": "日元"},
    **dict.fromkeys(["€", "EUR"], "欧元"),
    **dict.fromkeys(["£", "GBP"], "英镑"),
}
_SIGN = "|".join(map(re.escape, sorted(_MONEY, key=len, reverse=True)))
_UNIT = "元|块|圆|美元|美金|美刀|刀|港[元币]|新?台币|澳元|加元|新加坡元|新币|日元|欧元|英镑"

_WON = (
    "战胜|击败|打败|获胜|险胜|大胜|完胜|逆转|淘汰|不敌|惜败|落败|战平|领先|落后|取胜|力克|轻取|"
    "横扫|小胜|绝杀|告负|拿下|打?赢|打?输|[胜负平]"
)
_SUMS = "等于|是|得|的差|减|加|乘|除|室|号楼"  # what follows a hyphen that is no "to"
_HAN = "\u4e00-\u9fff"

_ADDRESS_SIGNS = {".": "点", "@": "艾特", "-": "杠", "_": "下划线", "/": "斜杠", ":": "冒号"}
_ENGLISH = "zero one two three four five six seven eight nine ten".split()
_TITLES = {"Mr": "Mister", "Mrs": "Missis", "Dr": "Doctor", "Prof": "Professor"}


def _address(match: Match) -> str:
    """A web or mail address, its signs and digits as they are said."""
    return "".join(_ADDRESS_SIGNS.get(char, char) for char in match[0]).translate(_DIGITS)


def _code(match: Match) -> str:
    """The last group digit by digit, with a pause for each blank or hyphen in it; what is before it stays."""
    digits = match[match.lastindex or 0]
    before = match[0][: len(match[0]) - len(digits)]
    return before + re.sub("[ -]+", "，", digits.replace("+", "加")).translate(_CODE_DIGITS)


def _years(match: Match) -> str:
    """Two years digit by digit."""
    return f"{match[1]}到{match[2]}".translate(_DIGITS)


def _spelled(match: Match) -> str:
    """The digits of the match one by one, and nothing else of it."""
    return re.sub(r"\D", "", match[0]).translate(_DIGITS)


def _span(match: Match) -> str:
    """A range, where the second number is the greater one; 5-3 may be anything."""
    return f"{match[1]}到{match[2]}" if float(match[1]) < float(match[2]) else match[0]


def _money(match: Match) -> str:
    """An amount with the unit behind it that is written, else that of its sign."""
    sign, amount, other, size, unit = match.groups()
    return f"{amount}{'到' + other if other else ''}{size or ''}{unit or _MONEY[sign]}"


def _hundreds(match: Match) -> str:
    """A number of three digits as an amount."""
    hundreds, tens, ones = match[0]
    tens = f"{tens}十" if tens != "0" else "零" if ones != "0" else ""
    return f"{hundreds}百{tens}{ones.strip('0')}".translate(_DIGITS)


def _decimal(match: Match) -> str:
    """A decimal that is no date."""
    return f"{match[1]}点{match[2].translate(_DIGITS)}"


# (pattern, what takes its place), applied in this order; above each what wetext says otherwise.
_RULES: list[tuple[str, str | Callable[[Match], str]]] = [
    # ５０％: 五十％; 3．5 is two numbers, and 8：30 and 3：2 keep the colon
    ("[０-９％]", lambda match: chr(ord(match[0]) - 0xFEE0)),
    (r"(?<=\d)．(?=\d)", "."),
    (r"(?<!\d)(?<!\d[:：])(\d{1,3})：(\d{1,3})(?![\d元块个人年月%：]|\.\d)", r"\1:\2"),
    (r"(?<=\d)：(?=\d)", "： "),
    # 89㎡: ㎡
    ("[㎡㎥㎜㎝㎞㎎㎏]", lambda match: unicodedata.normalize("NFKC", match[0]).replace("2", "²").replace("3", "³")),
    # www.baidu.com, a@163.com: the dots end sentences, and 一百六十三
    (r"(?<![A-Za-z0-9])(?:https?://|www\.)[A-Za-z0-9](?:[A-Za-z0-9./_?=&%#:~+-]*[A-Za-z0-9])?", _address),
    (r"(?<![A-Za-z0-9._-])[A-Za-z0-9][A-Za-z0-9._-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]+", _address),
    (r"(?<![A-Za-z0-9.])(?:[A-Za-z0-9-]+\.)+(?:com|cn|net|org|edu|gov)(?![A-Za-z0-9])", _address),
    # No.1: "No。一"
    (r"(?<![A-Za-z])[Nn][oO]\. ?(10|[0-9])(?!\.?\d)", lambda match: f"number {_ENGLISH[int(match[1])]}"),
    (r"(?<![A-Za-z])[Nn][oO]\. ?(?=\d)", "number "),
    # Mr. Smith, U.S.A., Vol.3, Node.js, .NET: the dots end sentences
    (r"(?<![A-Za-z])(Mr|Mrs|Dr|Prof)\. ?", lambda match: f"{_TITLES[match[1]]} "),
    (r"(?<![A-Za-z])e\.g\.,? ?", "例如"),
    (r"(?<![A-Za-z])i\.e\.,? ?", "也就是"),
    (r"(?<![A-Za-z])Ph\.D\.?", "PhD"),
    (r"(?<![A-Za-z])([A-Z])\. (?=[A-Z][a-z.])", r"\1 "),
    (r"(?<![A-Za-z.])[A-Za-z](?:\.[A-Za-z])+\.?(?![A-Za-z])", lambda match: match[0].replace(".", "")),
    (r"(?<![A-Za-z])(St|Jr|Sr|Ms|vs|etc|Inc|Ltd|Co|Corp|Vol|vol|Fig|fig|Ch|Ver|ver|pp?)\. ?(?=[A-Za-z0-9])", r"\1 "),
    (r"(?<=[A-Za-z0-9_])\.(?=[a-z]|[A-Z]{2})|\.(?=NET(?![A-Za-z]))", "点"),
    # 5.1.2版: "五。一点二版"; a date and four parts are read well
    (r"(?<![\d.])(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?!\.?\d)", r"\1点\2点\3"),
    # 价格是11.5: 十一月五日, iOS 12.1
    (
        r"(?:(?<=[达约了本绩高低均价A-Za-z])|(?<=[价格分绩率均值数量本高低][是为])|"
        r"(?<=[A-Za-z] )|(?<=[涨跌升降增减]到))(?!11\.11|12\.12)(1[0-2])\.(\d\d?)(?=[，。、；！？）)和与或版]|$)",
        _decimal,
    ),
    # 3.15晚会: 三点一五, 985高校: 九百八十五, 996工作制
    (r"(?<![\d.])(?:3\.?15|6\.?18|9\.?11)(?=晚会|大促|购物节|年中|活动|期间|事件|恐怖)", _spelled),
    (r"(?<![\d.])[35678]\.[18](?=(?:国际)?(?:妇女|劳动|儿童|建党|建军)节|小长假|黄金周)", _spelled),
    (r"(?<![\d.])7-11(?=便利店|超市|门店)", "seven eleven"),
    (r"(?<![\d.])985(?=[、和/及]?211|工程|高校|大学|院校|名校|毕业)", _spelled),
    (r"(?<![\d.])211(?=工程|高校|大学|院校|名校|毕业)|(?<=[五5][、和/及])211(?!\d)", _spelled),
    (r"(?<![\d.])996(?=工作|上班|加班|福报|制度)", _spelled),
    (r"(?<![\d.,])12306(?![\d.,]|[元个万人])", lambda match: match[0].translate(_CODE_DIGITS)),
    # 2米8，1米75: 八十一; 他有2，3个: 二十三. First the commas that only group thousands go.
    # 3,050.12点: without the comma a month
    (r"(?<![\d.,])(\d{1,3}(?:,\d{3})+)\.(1[0-2])(?![\d.]|[元块万亿])", lambda m: _decimal(m).replace(",", "")),
    (r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!,?\d)", lambda match: match[0].replace(",", "")),
    (r"(?<=\d)([,，])(?=(?:-|[¥￥$€£])?\d)", r"\1 "),
    # ¥100元: 十元零元, ¥5元: ¥五元, $5美元: 五美元美元, $5.5万, US$5
    (
        rf"(?<![A-Za-z])({_SIGN}) ?({_NUMBER})(?:[-~～—]({_NUMBER}))?([百千万亿]+)?(?!\.?\d)({_UNIT})?",
        _money,
    ),
    (rf"({_NUMBER})([百千万亿]*) ?([$€£]|RMB|CNY|USD|HKD)(?![A-Za-z\d])", lambda m: m[1] + m[2] + _MONEY[m[3]]),
    # 12.50元: 十二点五零元
    (r"(?<![\d.])(\d+)\.00?(?=元|块)", r"\1"),
    (r"(?<![\d.])(\d+\.\d)0(?=元|块)", r"\1"),
    # 身份证号是330106199001011234, 卡号6222 0212 3456: as numbers, the first only in part
    (
        rf"(?:{_CODE})(?:号码?|码)?(?:[:：是为]|分别| )*[A-Za-z]{{0,4}}"
        rf"(\+?\d(?:[ -]?\d){{2,}}[Xx]?)(?!\d|\.\d| ?[{_COUNTED}])",
        _code,
    ),
    (rf"(?:QQ|微信|客服)群?(?:[:：是为]| )*(\d{{5,}})(?!\d|\.\d|[{_COUNTED}])", _code),
    (r"(?<![\d.,A-Za-z])((?:\+?86[ -]?)?1[3-9]\d[ -]\d{4}[ -]\d{4})(?![\d-])", _code),
    (r"(?<![\d.,A-Za-z])(\+86[ -]?\d[\d -]{6,}\d)", _code),
    (r"[(（](0\d{2,3})[)）] ?(?=\d{7,8}(?!\d))", r"\1 "),
    (r"(?<![\d.,A-Za-z-])(0\d{2,3} \d{7,8})(?![\d-])", _code),
    (r"(?<![\d.,A-Za-z-])([48]00[ -]\d{3}[ -]\d{4})(?![\d-])", _code),
    (r"(?<=[\d零幺二三四五六七八九]转)(\d{2,})", _code),
    (r"(?<![\d.,])(\d{13,})(?![\d.,])", _code),
    # CA1234航班: 一千二百三十四; 1101室: 一千一百零一室
    (rf"(?<![A-Za-z\d])[A-Z]{{1,3}}(\d{{4,}})(?![\dA-Za-z]|[.,]\d|[{_COUNTED.replace('次', '')}])", _code),
    (r"(?<![\d.-])\d+(?:-\d+)+(?=室)", lambda match: match[0].replace("-", "杠")),
    (r"(?<![\d.,])(\d{3,4})(?=室)", _code),
    # 2023-2024学年: 减, 2019～2023年: 两千零一十九; 2020/21赛季: a fraction
    (r"(?<!\d)([12]\d{3})[-~～—–至到]([12]\d{3})(?=学年|赛季|财年|年)", _years),
    (r"(?<!\d)((?:19|20)\d\d)[-~～—–]((?:19|20)\d\d)(?=[，。、；！？）)]|$)", _years),
    (r"(?<!\d)([12]\d{3})[-/]([0-9]\d)(?=学年|赛季|财年)", _years),
    # 3～5天: 三～五天; 20%-30%: 百分之负三十; 3-5级: 三减五级
    (r"(?<=\d)[—–](?=\d)|(?<=[\d%‰℃°])～(?=[-\d])", "~"),
    (r"(?<=\d[年月日号点时分秒元块万亿度岁米斤周楼层级])[-~～—](?=\d)", "到"),
    (r"(?<=\d[A-Za-z])[~～—](?=\d)|(?<=\d[A-Za-z]{2})[~～—](?=\d)", "到"),
    (rf"({_NUMBER})[-~]({_NUMBER}%)", r"\1%到\2"),
    (rf"({_NUMBER}%)[-~](?={_NUMBER}%)", r"\1到"),
    (rf"(?<![\d.:-])(\d+)[-:](\d+)(?=(?:的[总大]?比分)?(?:{_WON}))", r"\1比\2"),
    (r"(比分(?:[是为：:]|定格在|来到)?)(\d+)[-:](\d+)(?![\d.:-])", r"\1\2比\3"),
    (r"(?<![\d.:-])(\d+)-(\d+)(?=等于|是多少|得)", r"\1减\2"),
    (rf"(?<![\d.:A-Za-z+*/×÷=-])({_NUMBER})-({_NUMBER})(?=[{_HAN}])(?!{_SUMS})", _span),
    # COVID-19: 负十九, 歼-20
    (r"(?<=[A-Z])-(?=\d)|(?<=[A-Za-z]{2})-(?=\d)|(?<=[歼轰运直风征舟娥宫])-(?=\d)", ""),
    # 07月04日: 零七月零四日
    (r"(?<![\d.])0([1-9])(?=月)|(?<=月)0([1-9])(?=[日号])", lambda match: match[1] or match[2]),
    # 0:05: 零比零五
    (r"(?<![\d:.])0:00(?![\d:])", "0点"),
    (r"(?<![\d:.])0:([0-5]\d)(?![\d:])", r"0点\1分"),
    # 2月2日: 两日, 第2天: 第两天, 5栋2单元: 两单元
    (r"(?<=月)2(?=[日号])|(?<![\d.])2(?=日(?:上午|下午|晚|凌晨|早|中午|电|讯))", "二"),
    (r"第2(?!\d|\.\d)", "第二"),
    (r"(?<=[栋楼号幢座])2(?=单元)", "二"),
    # 2点半: 二点半, 2次: 二次; 2点5 is a decimal, G2次 a train
    (r"(?<![\d.A-Za-z第])2(?=点(?!\d(?!\d|分)))", "两"),
    (r"(?<![\d.A-Za-z第/:-])2(?=次(?!方|元|列车)|件|份|台|部|条|遍|门|倍|公斤|星期|年(?!级))", "两"),
    (rf"(?<![\d.A-Za-z第/:-])2[到~-](?={_NUMBER}(?:[点次件份台部条遍门倍个天周人位名家斤米岁]|年(?!级)))", "两到"),
    # 2005年后: 两千零五年后
    (r"(?<!\d)(?!2000)(?:19|20)\d\d(?=年[以之]?[前后])", _spelled),
    # 生于85年: 八十五年, 95后: 九十五后, 98年世界杯: 九十八年, 5000年历史: 五零零零年
    (r"(?<![\d.])[0156789]5(?=后(?![天年个的来卫面]))", _spelled),
    (
        r"(?<=生于)[5-9]\d(?=年)|(?<![\d.])[5-9]\d(?=年(?:出生|毕业|入学|入伍|结婚|的?世界杯|的?奥运|的?春晚|的?洪水|\d\d?月))",
        _spelled,
    ),
    (r"(?<!\d)([3-9])000(?=年)|(?<!\d)([12])000(?=年的?(?:悠久)?(?:历史|文明))", lambda m: f"{m[1] or m[2]}千"),
    # 7×24小时: 七乘二四小时, 2*3: 二*三
    (r"(?<=\d) ?[×*xX] ?(?=\d)|(?<=\d[a-z]m) ?[×*] ?(?=\d)", "乘"),
    # 50‰: 五十‰, ±5%: 百分之正负五
    (rf"({_NUMBER})‰", r"千分之\1"),
    (rf"±({_NUMBER})%", r"正负百分之\1"),
    # 9秒83: 八十三, 表4-1: 四减一, 8GB+256GB: 正, 1升=1000毫升, 1.5亿km
    (r"(?<=\d秒)(\d\d)(?!\d)", _spelled),
    (r"([图表]\d+)-(?=\d+(?![\d-]))", r"\1杠"),
    (r"(?<=[A-Za-z])\+(?=\d)", "加"),
    (rf"(?<=[{_HAN}])=(?=[{_HAN}\d])", "等于"),
    (r"(?<=[万亿])km(?![A-Za-z/])", "公里"),
    (r"(?<=[万亿])kg(?![A-Za-z/])", "公斤"),
    # 550mL: 五百五十米L, 5000mAh: 五千米Ah
    # 5g糖, 220V, 9.8m/s²: 每秒九点八米平方, 100次/分, 血压120/80: a fraction, 10'30"
    (r"(?<=\d)mL(?![A-Za-z])", "ml"),
    (r"(?<=\d)mAh(?![A-Za-z])", "毫安时"),
    (r"(?<=\d) ?Hz(?![A-Za-z])", "赫兹"),
    (rf"(?<![A-Za-z\d.])(?![2-6]g(?!的?[盐糖油药茶粉]))({_NUMBER})g(?![A-Za-z\d])", r"\1克"),
    (r"(?<![A-Za-z\d.])(\d{2,}|\d\.\d+|[3569])V(?![A-Za-z\d])", r"\1伏"),
    (rf"({_NUMBER}) ?m/s[²2]", r"\1米每二次方秒"),
    (rf"({_NUMBER}次)/分钟?", r"每分钟\1"),
    (r"(血压(?:[是为：:]|高达)?)(\d\d\d?)/(\d\d\d?)(?!\d)", r"\1\2比\3"),
    # 120比80, 120Hz: 幺二零, as the emergency number
    (r"(?<!\d)1[12]\d(?=比\d|赫兹)", _hundreds),
    (r"(?<!\d)(\d+)['′](\d{1,2})[\"″]", r"\1分\2秒"),
    # 微信号zhang_24: 二十四
    (r"(?<=[A-Za-z]_)\d{2,}", _spelled),
    # 10w+: 十w+
    (r"(?<=\d)w(?=\+)|(?<=\d\.\d)w(?![A-Za-z])|(?<=\d)w(?=粉丝|人|播放|阅读|点赞|[块元多个次])", "万"),
    # 1000+人: 一千+人
    (r"(?<![\d.+])(\d*0|\d+(?:\.\d+)?[万亿千])\+(?![\d+])", r"\1多"),
    # ①准备: nothing
    ("([①-⑳])、?", lambda match: f"{ord(match[1]) - ord('①') + 1}、"),
]
_COMPILED = [(re.compile(pattern), spoken) for pattern, spoken in _RULES]


def reworded(text: str) -> str:
    """The text as wetext's Chinese grammar reads it right."""
    for pattern, spoken in _COMPILED:
        text = pattern.sub(spoken, text)
    return text
